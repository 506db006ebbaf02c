package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/link"
	"drvsock/internal/wire"
)

// A wire between the two ends of a stand-in for a Hyper-V socket: it counts, and
// can be cut.
type standIn struct {
	path  string
	bytes atomic.Int64
	delay time.Duration // of what goes to the agent

	mu   sync.Mutex
	cuts []func()
	work sync.WaitGroup
}

func (s *standIn) dial(ctx context.Context, port string) (*os.File, error) {
	if port != "stand-in for machine 7" {
		return nil, errors.New("dialled " + port)
	}
	far, err := (&net.Dialer{}).DialContext(ctx, "unix", s.path)
	if err != nil {
		return nil, err
	}
	return s.join(far)
}

// join returns the near end of a connection whose far one is given.
func (s *standIn) join(far net.Conn) (*os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(pair[1]), "middle")
	near, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return nil, err
	}
	cut := func() { _, _ = near.Close(), far.Close() }
	s.mu.Lock()
	s.cuts = append(s.cuts, cut)
	s.mu.Unlock()
	for _, d := range [2][2]net.Conn{{near, far}, {far, near}} {
		s.work.Go(func() {
			defer cut()
			w := io.MultiWriter(d[0], counter{&s.bytes})
			if d[0] == far {
				w = io.MultiWriter(sleeper(s.delay), w)
			}
			_, _ = io.Copy(w, d[1])
			if d[0] == near { // the guest reads no more; what it has written still arrives
				_, _ = io.Copy(io.Discard, d[1])
			}
		})
	}
	return os.NewFile(uintptr(pair[0]), "stand-in"), nil
}

func (s *standIn) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.cuts {
		c()
	}
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}

// A sleeper holds up who writes to it.
type sleeper time.Duration

func (d sleeper) Write(b []byte) (int, error) {
	time.Sleep(time.Duration(d))
	return len(b), nil
}

// door returns a command whose agent listens at a stand-in.
func door(t *testing.T) (*Command, *standIn) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "door")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &standIn{path: filepath.Join(dir, "s")}
	t.Setenv(doorVariable, s.path)
	t.Cleanup(s.work.Wait)
	t.Cleanup(s.cut)
	return &Command{Argv: self(t), Starter: Children(), Log: quiet, Door: &Door{
		Missing:   func() error { return nil },
		Fits:      func(wire.Hello) error { return nil },
		MachineID: func(context.Context) (string, error) { return "machine 7", nil },
		Dial:      s.dial,
	}}, s
}

// echo is a host program that sends back what it gets.
func echo(t *testing.T, path string) {
	t.Helper()
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		work.Wait()
	})
}

// there sends n bytes to the echo of l's host and wants them back.
func there(t *testing.T, l *link.Link, n int) {
	t.Helper()
	s, _, err := l.Open(t.Context(), wire.Request{Kind: wire.KindConnect, Path: []byte(`C:\echo`)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	sent := bytes.Repeat([]byte("0123456789abcde\n"), n/16)
	go func() {
		_, _ = s.Write(sent)
		_ = s.CloseWrite()
	}()
	if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(sent), err)
	}
}
