package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/report"
	"drvsock/internal/wire"
)

// A Command is an agent whose stdin and stdout are the link. Each Dial starts
// it, in a process group of its own: the terminal's Ctrl-C is for others.
type Command struct {
	Argv    []string
	Dir     string // working folder, "" for ours
	Starter Starter
	Log     *slog.Logger // gets what the agent says on stderr
	Interop string       // where WSL has its sockets, "" for /run/WSL; see environment
	// Door, if not nil, is tried for a link to carry the streams in the place of
	// stdin and stdout, which then only hold the agent.
	Door *Door

	check func(peer wire.Hello) error // ends a link whose agent is not the one that is wanted
}

// Kind is "command".
func (c *Command) Kind() string { return "command" }

// String is the command line, without the shell's.
func (c *Command) String() string {
	if len(c.Argv) == 3 && c.Argv[0] == shell && c.Argv[1] == "-c" {
		return c.Argv[2]
	}
	return strings.Join(c.Argv, " ")
}

// Dial starts the agent.
func (c *Command) Dial(ctx context.Context, cfg link.Config) (*Link, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	p, pipes, err := c.start()
	if err != nil {
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	words := &lastWords{log: c.Log, heard: make(chan struct{})}
	go words.listen(pipes.err)
	kill := context.AfterFunc(ctx, p.Kill)
	l, err := over(ctx, pipes.out, pipes.in, cfg)
	kill()
	if err != nil {
		end(p)
		waitFor(words.heard, endWait)
		err = fmt.Errorf("link to the agent %q: %w", c.Argv, err)
		switch s := words.last(); {
		case s != "":
			err = report.Hint(err, "the agent's last words were: %s", s)
		case errors.Is(err, errno.ETIMEDOUT):
			// ssh, for one, asks for a password or about a host's key at the terminal,
			// if there is one, where a background process is stopped.
			err = report.Hint(err, "if it asks for something, nobody can answer: try the command by itself")
		}
		return nil, err
	}
	if c.check != nil {
		if err := c.check(l.Peer()); err != nil {
			_ = l.Close()
			end(p)
			return nil, err
		}
	}
	base := &Link{Link: l, PID: p.PID(), Way: c.Kind(), end: func() { end(p) }}
	if c.Door == nil {
		return base, nil
	}
	m, err := c.Door.move(ctx, l, cfg, c.Log)
	if err != nil {
		if ctx.Err() != nil {
			base.End()
			return nil, fmt.Errorf("link to the agent %q: %w", c.Argv, context.Cause(ctx))
		}
		base.Why = err.Error()
		return base, nil
	}
	c.Log.Info("link moved to a Hyper-V socket", "port", m.port)
	go c.Door.attend(m, l)
	end := func() {
		m.settle()
		if !errors.Is(m.Err(), net.ErrClosed) {
			waitFor(l.Done(), lossWait) // to learn whose fault it was
		}
		base.End()
	}
	return &Link{Link: m.Link, PID: p.PID(), Way: "hyperv", Why: "port " + m.port, end: end, base: l}, nil
}

// end waits for the agent, and kills it, and what its command line started on
// the way to it, if it does not end by itself.
func end(p Process) {
	if !waitFor(p.Done(), endWait) {
		p.Kill()
		<-p.Done()
	}
}

// stdio are our ends of an agent's pipes.
type stdio struct{ in, out, err *os.File }

func (c *Command) start() (Process, stdio, error) {
	var fds [6]int // read and write ends of stdin, stdout, stderr
	for i := 0; i < 6; i += 2 {
		if err := unix.Pipe2(fds[i:i+2], unix.O_CLOEXEC); err != nil {
			closeAll(fds[:i])
			return nil, stdio{}, os.NewSyscallError("pipe2", err)
		}
	}
	p, err := c.Starter.Start(c.Argv[0], c.Argv, &syscall.ProcAttr{
		Dir: c.Dir, Env: c.environment(os.Environ()),
		Files: []uintptr{uintptr(fds[0]), uintptr(fds[3]), uintptr(fds[5])},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	closeAll([]int{fds[0], fds[3], fds[5]})
	if err != nil {
		closeAll([]int{fds[1], fds[2], fds[4]})
		return nil, stdio{}, err
	}
	return p, stdio{
		in:  os.NewFile(uintptr(fds[1]), "agent's stdin"),
		out: os.NewFile(uintptr(fds[2]), "agent's stdout"),
		err: os.NewFile(uintptr(fds[4]), "agent's stderr"),
	}, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// lastWords logs what the agent says on stderr and keeps its last line.
type lastWords struct {
	log   *slog.Logger
	heard chan struct{} // closed when it will say no more
	mu    sync.Mutex
	line  string
}

// listen owns r.
func (w *lastWords) listen(r io.ReadCloser) {
	defer close(w.heard)
	defer r.Close()
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
