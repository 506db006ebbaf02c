package supervise

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/build"
	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/reaper"
	"drvsock/internal/report"
	"drvsock/internal/wire"
)

// redialAfter is the least time between two starts of the agent, so that one
// that can't live costs its callers an error each, not a process each.
const redialAfter = time.Second

// host holds the one link, and starts the agent anew when a call needs it after
// it was lost.
type host struct {
	argv     []string
	reaper   *reaper.Reaper
	log      *slog.Logger
	accepted func(*link.Incoming)
	lost     func() // called in its own goroutine after a link was lost and its agent ended, not after close

	mu     sync.Mutex
	cur    *link.Link
	agent  *reaper.Process // the last one started
	trying *dialing        // nil if no agent is being started
	tried  time.Time
	last   error
	closed bool
}

// dialing is one start of the agent, for which any number of calls may wait.
type dialing struct {
	done chan struct{}
	link *link.Link
	err  error
}

var errClosedHost = errno.Errorf(errno.ENETDOWN, errno.LayerLink, "closed")

func newHost(argv []string, r *reaper.Reaper, log *slog.Logger, accepted func(*link.Incoming), lost func()) *host {
	return &host{argv: argv, reaper: r, log: log, accepted: accepted, lost: lost}
}

// link gives the live link, starting the agent if there is none. That may take
// as long as the hello of package link has; the caller waits no longer than ctx.
func (h *host) link(ctx context.Context) (*link.Link, error) {
	l, d, err := h.current()
	if d == nil {
		return l, err
	}
	select {
	case <-d.done:
		return d.link, d.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// current gives the live link, or the start of an agent that will bring one.
func (h *host) current() (*link.Link, *dialing, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, nil, errClosedHost
	}
	if h.cur != nil {
		select {
		case <-h.cur.Done():
			h.cur = nil
		default:
			return h.cur, nil, nil
		}
	}
	if h.trying != nil {
		return nil, h.trying, nil
	}
	if since := time.Since(h.tried); since < redialAfter && h.last != nil {
		return nil, nil, h.last
	}
	h.tried = time.Now()
	h.trying = &dialing{done: make(chan struct{})}
	go h.try(h.trying)
	return nil, h.trying, nil
}

// try dials and says what came of it.
func (h *host) try(d *dialing) {
	l, p, err := h.dial()
	h.mu.Lock()
	if err == nil && h.closed {
		err = errClosedHost
	} else if err == nil {
		h.cur = l
	}
	h.trying, h.last = nil, err
	h.mu.Unlock()
	if err == nil {
		d.link = l
		go h.mourn(l, p)
	} else if l != nil {
		_ = l.Close()
	}
	d.err = err
	close(d.done)
}

// started notes the agent that is being started, unless it is too late for one.
func (h *host) started(p *reaper.Process) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.agent = p
	return !h.closed
}

// dial starts the agent's command with pipes as its stdin and stdout.
func (h *host) dial() (*link.Link, *reaper.Process, error) {
	var fds [6]int // read and write ends of stdin, stdout, stderr
	for i := 0; i < 6; i += 2 {
		if err := unix.Pipe2(fds[i:i+2], unix.O_CLOEXEC); err != nil {
			closeAll(fds[:i])
			return nil, nil, os.NewSyscallError("pipe2", err)
		}
	}
	path, argv := h.argv[0], h.argv
	p, err := h.reaper.Start(path, argv, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{uintptr(fds[0]), uintptr(fds[3]), uintptr(fds[5])},
		// The terminal's Ctrl-C is for the command, not for the link.
		Sys: &syscall.SysProcAttr{Setpgid: true},
	}, nil)
	closeAll([]int{fds[0], fds[3], fds[5]})
	if err != nil {
		closeAll([]int{fds[1], fds[2], fds[4]})
		return nil, nil, fmt.Errorf("start the agent: %w", err)
	}
	if !h.started(p) {
		h.kill(p)
	}
	words := &lastWords{log: h.log}
	heard := make(chan struct{})
	stderr := os.NewFile(uintptr(fds[4]), "agent's stderr")
	go func() {
		defer close(heard)
		defer stderr.Close()
		words.listen(stderr)
	}()
	l, err := h.join(os.NewFile(uintptr(fds[2]), "agent's stdout"), os.NewFile(uintptr(fds[1]), "agent's stdin"))
	if err != nil {
		h.end(p)
		waitFor(heard, agentWait)
		err = fmt.Errorf("link to the agent %q: %w", argv, err)
		if s := words.last(); s != "" {
			err = report.Hint(err, "the agent's last words were: %s", s)
		}
		return nil, nil, err
	}
	peer := l.Peer()
	h.log.Info("link up", "agent", peer.Build, "os", peer.OS, "pid", p.PID)
	return l, p, nil
}

// mourn waits for the end of a link and of its agent.
func (h *host) mourn(l *link.Link, p *reaper.Process) {
	<-l.Done()
	h.mu.Lock()
	closed := h.closed
	h.mu.Unlock()
	if closed {
		return // close waits for the agent
	}
	h.log.Warn("link lost", "err", l.Err())
	// First the agent: one that only stands still holds its sockets, and no other
	// could make them anew.
	h.end(p)
	h.lost()
}

// join makes a link of the agent's stdout and stdin, which it takes over.
func (h *host) join(from, to *os.File) (*link.Link, error) {
	rw, err := link.Files(from, to)
	if err != nil {
		return nil, err
	}
	return link.New(rw, link.Config{Role: wire.RoleGuest, Build: build.Version(), Handler: h.accepted, Log: h.log})
}

// end waits for the agent, and kills it if it does not end by itself.
func (h *host) end(p *reaper.Process) {
	if !waitFor(p.Done(), agentWait) {
		h.kill(p)
		<-p.Done()
	}
}

// kill ends the agent and what its command line started on the way to it, such
// as a shell's child.
func (h *host) kill(p *reaper.Process) { h.reaper.SignalGroup(p, unix.SIGKILL) }

// open asks the agent for a stream, on a new link if the last was lost.
func (h *host) open(ctx context.Context, req wire.Request) (*link.Stream, error) {
	l, err := h.link(ctx)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		var e *errno.Error
		if !errors.As(err, &e) {
			err = errno.Errorf(errno.ENETDOWN, errno.LayerLink, "%v", err)
		}
		return nil, err
	}
	s, _, err := l.Open(ctx, req)
	return s, err
}

func (h *host) close() {
	h.mu.Lock()
	l, p, trying := h.cur, h.agent, h.trying != nil
	h.closed, h.cur = true, nil
	h.mu.Unlock()
	if p != nil && trying {
		h.kill(p) // nobody waits for what it would become
	}
	if l != nil {
		_ = l.Close()
	}
	if p != nil {
		h.end(p)
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// lastWords logs what the agent says on stderr and keeps its last line.
type lastWords struct {
	log  *slog.Logger
	mu   sync.Mutex
	line string
}

func (w *lastWords) listen(r io.Reader) {
	// A line longer than the buffer comes in pieces; nothing is kept of it.
	br := bufio.NewReaderSize(r, 4096)
	for {
		b, _, err := br.ReadLine()
		if err != nil {
			return
		}
		if len(b) == 0 {
			continue
		}
		w.mu.Lock()
		w.line = string(b)
		w.mu.Unlock()
		w.log.Info("agent says", "line", string(b))
	}
}

func (w *lastWords) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.line
}
