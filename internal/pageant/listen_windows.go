package pageant

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"

	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// answerTime bounds the wait for an answer by the window. An agent may ask its
// user first.
const answerTime = 2 * time.Minute

type listener struct {
	conns  chan accepted
	done   chan struct{} // closed by close
	log    *slog.Logger
	pipe   net.Listener // nil if it can't be had
	window *window      // likewise
	user   string       // this account
	wg     sync.WaitGroup
	once   sync.Once
}

type accepted struct {
	conn   Conn
	caller wire.Caller
}

// listen makes the pipe and the window, or one of them.
func listen(log *slog.Logger) (*listener, error) {
	l := &listener{conns: make(chan accepted), done: make(chan struct{}), log: log, user: accountName()}
	pipe, errPipe := listenPipe()
	window, errWindow := openWindow(l.serve)
	switch {
	case errPipe != nil && errWindow != nil:
		return nil, fmt.Errorf("%s: %w", Addr, errors.Join(errWindow, errPipe))
	case errPipe != nil:
		log.Warn("Pageant is played by its window alone", "pipe", errPipe)
	case errWindow != nil:
		log.Warn("Pageant is played by its pipe alone", "window", errWindow)
	}
	if errWindow == nil {
		l.window = window
		l.wg.Go(l.watch)
	}
	if errPipe == nil {
		l.pipe = pipe
		l.wg.Go(l.run)
	}
	return l, nil
}

func (l *listener) accept() (Conn, wire.Caller, error) {
	select {
	case a := <-l.conns:
		return a.conn, a.caller, nil
	case <-l.done:
		return nil, wire.Caller{}, net.ErrClosed
	}
}

// deliver hands conn to accept, or closes it: with the listener, or at late, which
// may be nil.
func (l *listener) deliver(conn Conn, caller wire.Caller, late <-chan time.Time) bool {
	select {
	case l.conns <- accepted{conn, caller}:
		return true
	case <-l.done:
	case <-late:
	}
	_ = conn.Close()
	return false
}

// watch tells of a window that is gone before its time.
func (l *listener) watch() {
	<-l.window.ended
	select {
	case <-l.done:
	default:
		l.log.Warn("Pageant's window was closed from outside")
	}
}

// listenPipe makes Pageant's pipe, with room for a message each way.
func listenPipe() (net.Listener, error) {
	name, err := pipeName()
	if err != nil {
		return nil, err
	}
	_, text, err := private()
	if err != nil {
		return nil, err
	}
	l, err := winio.ListenPipe(name, &winio.PipeConfig{SecurityDescriptor: text, InputBufferSize: 64 << 10, OutputBufferSize: 64 << 10})
	if errors.Is(err, windows.ERROR_ACCESS_DENIED) || errors.Is(err, windows.ERROR_ALREADY_EXISTS) ||
		errors.Is(err, windows.ERROR_PIPE_BUSY) {
		return nil, errno.Errorf(errno.EADDRINUSE, errno.LayerHost, "%s is another's: %v", name, err)
	}
	return l, err
}

// run takes connections from the pipe.
func (l *listener) run() {
	for {
		conn, err := l.pipe.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			l.log.Warn("accept", "pipe", l.pipe.Addr(), "error", err)
			select {
			case <-time.After(100 * time.Millisecond):
				continue
			case <-l.done:
				return
			}
		}
		if !l.deliver(&pipeConn{Conn: conn, agent: true}, l.callerOf(conn), nil) {
			return
		}
	}
}

// callerOf tells who opened the pipe.
func (l *listener) callerOf(conn net.Conn) wire.Caller {
	c := wire.Caller{User: l.user}
	h, ok := conn.(interface{ Fd() uintptr })
	if !ok || windows.GetNamedPipeClientProcessId(windows.Handle(h.Fd()), &c.PID) != nil {
		return c
	}
	p, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, c.PID)
	if err != nil {
		return c
	}
	defer windows.CloseHandle(p)
	buf := make([]uint16, windows.MAX_LONG_PATH)
	n := uint32(len(buf))
	if windows.QueryFullProcessImageName(p, 0, &buf[0], &n) == nil {
		c.Program = strings.ToLower(filepath.Base(windows.UTF16ToString(buf[:n])))
	}
	return c
}

// serve answers a question that came by the window, on the window's thread: further
// ones wait, as they do with Pageant.
func (l *listener) serve(name []byte) bool {
	mem, err := openMemory(name)
	if err != nil {
		l.log.Info("question by the window refused", "error", err)
		return false
	}
	defer mem.close()
	msg, err := message(mem.bytes)
	if err != nil {
		l.log.Info("question by the window refused", "error", err)
		return false
	}
	conn, answer := newQuestion(msg)
	_ = l.deliver(conn, wire.Caller{User: l.user}, time.After(answerTime))
	reply, err := answer(answerTime, l.done) // at once of one that was closed
	if err == nil && len(reply) > len(mem.bytes) {
		err = fmt.Errorf("an answer of %d bytes for %d bytes of shared memory", len(reply), len(mem.bytes))
	}
	if err != nil {
		l.log.Info("question by the window not answered", "error", err)
		return false
	}
	copy(mem.bytes, reply)
	return true
}

func (l *listener) close() error {
	var err error
	l.once.Do(func() {
		close(l.done)
		if l.window != nil {
			l.window.close()
		}
		if l.pipe != nil {
			err = l.pipe.Close()
		}
		l.wg.Wait()
	})
	return err
}
