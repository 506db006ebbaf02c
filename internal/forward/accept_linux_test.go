package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/config"
	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/socket"
	"drvsock/internal/wire"
)

// A script is a listener whose Accept does what it is told.
type script struct {
	steps  chan any // an error, or a connection
	closed chan struct{}
	once   sync.Once
}

func (s *script) Accept() (socket.Conn, socket.Peer, error) {
	select {
	case step := <-s.steps:
		if err, ok := step.(error); ok {
			return nil, socket.Peer{}, err
		}
		return step.(socket.Conn), socket.Peer{}, nil
	case <-s.closed:
		return nil, socket.Peer{}, net.ErrClosed
	}
}

func (s *script) Addr() string { return "" }
func (s *script) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// TestAcceptErrors: a shortage pauses accepting, and an error of the listener
// ends it.
func TestAcceptErrors(t *testing.T) {
	r := newRig(t)
	serve(t, filepath.Join(r.drive, "s"), shout)
	r.add(t, config.Forward{Name: "x", Listen: r.guest + "/x", Connect: `C:\s`})
	f := r.set.get("x")
	near, far := net.Pipe() // no socket, so that it is not relayed
	defer near.Close()
	l := &script{steps: make(chan any, 10), closed: make(chan struct{})}
	for _, e := range []unix.Errno{unix.EMFILE, unix.ECONNABORTED, unix.ENFILE} {
		l.steps <- os.NewSyscallError("accept", e)
	}
	l.steps <- halfCloser{far}
	l.steps <- os.NewSyscallError("accept", unix.EBADF)
	began := time.Now()
	if err := f.accept(l); !errors.Is(err, errno.EBADF) {
		t.Errorf("accept ends with %v", err)
	}
	if d := time.Since(began); d < 30*time.Millisecond || d > 5*time.Second {
		t.Errorf("pauses took %v", d)
	}
	if n, err := near.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		t.Errorf("the connection reads %d bytes, %v", n, err)
	}
	if e := r.status(t, "x").LastError; e == nil {
		t.Error("the shortage is not told")
	}
}

type halfCloser struct{ net.Conn }

func (h halfCloser) CloseWrite() error { return h.Close() }

// A stuck host never answers.
type stuck struct{ asked chan struct{} }

func (s stuck) Open(ctx context.Context, _ wire.Request) (*link.Stream, wire.Answer, error) {
	s.asked <- struct{}{}
	<-ctx.Done()
	return nil, wire.Answer{}, context.Cause(ctx)
}
func (stuck) Route(*link.Stream, func(*link.Incoming)) {}
func (stuck) Path(string) (string, bool)               { return "", false }

// TestOpeningBound: no more connections wait to be opened than are allowed; the
// next ones stay in the backlog until there is room. Closing ends all of them.
func TestOpeningBound(t *testing.T) {
	h := stuck{make(chan struct{}, 2*maxOpening)}
	set := NewSet(h, nil)
	dir := folder(t)
	check(t, set.Add(config.Forward{Name: "x", Listen: dir + "/x", Connect: `C:\s`}))
	var conns []net.Conn
	for range maxOpening + 20 {
		conns = append(conns, dial(t, dir+"/x"))
	}
	for range maxOpening {
		select {
		case <-h.asked:
		case <-time.After(10 * time.Second):
			t.Fatal("fewer are asked for")
		}
	}
	select {
	case <-h.asked:
		t.Error("more are asked for")
	case <-time.After(50 * time.Millisecond):
	}
	set.Close()
	for i, c := range conns {
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("connection %d: %d bytes, %v", i, n, err)
		}
		_ = c.Close()
	}
}
