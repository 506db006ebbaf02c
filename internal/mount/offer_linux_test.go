package mount

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/wire"
)

// TestSecondConnect has one thread connect twice, the second time before we have
// accepted the first: what it is told is the host's answer to the second.
func TestSecondConnect(t *testing.T) {
	beneath, at, _, _ := mounted(t, nil)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	socket := func() int {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	l := socket()
	defer unix.Close(l)
	if err := unix.Bind(l, &unix.SockaddrUnix{Name: beneath + "/h"}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(l, 0); err != nil { // which has room for one, unix(7)
		t.Fatal(err)
	}
	for i := range 200 {
		a, b := socket(), socket()
		if err := unix.Connect(a, &unix.SockaddrUnix{Name: at + "/h"}); err != nil {
			t.Fatalf("round %d: connect where there is room: %v", i, err)
		}
		if err := unix.Connect(b, &unix.SockaddrUnix{Name: at + "/h"}); err != unix.EAGAIN {
			t.Fatalf("round %d: connect where there is none: %v, want %v", i, err, unix.EAGAIN)
		}
		s, _, err := unix.Accept(l)
		if err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		_, _, _ = unix.Close(s), unix.Close(a), unix.Close(b)
	}
}

// TestOwnOffer has many threads of this process connect at once, each a socket with
// a name: each is who it says it is.
func TestOwnOffer(t *testing.T) {
	beneath, at, _, _ := mounted(t, nil)
	l, err := net.Listen("unix", beneath+"/h")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const threads, rounds = 6, 20
	var wg sync.WaitGroup
	for round := range rounds {
		for i := range threads {
			wg.Go(func() {
				name := fmt.Sprint(at, "/", round, "-", i)
				fd := stream(t)
				defer unix.Close(fd)
				if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
					t.Error(err)
				}
				if err := unix.Connect(fd, &unix.SockaddrUnix{Name: at + "/h"}); err != nil {
					t.Error(err)
				}
				_, _ = unix.Write(fd, []byte(filepath.Base(name)))
				_, _ = unix.Read(fd, make([]byte, 1))
			})
		}
		for range threads {
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 100)
			n, err := c.Read(b)
			if peer := filepath.Base(c.RemoteAddr().String()); peer != string(b[:n]) {
				t.Errorf("%s says it is %s, %v", peer, b[:n], err)
			}
			c.Close()
		}
		wg.Wait()
	}
}

// judge is a Host that is asked about each connect first.
type judge struct {
	*near
	says func(n int) error // of the n-th
	n    atomic.Int32
}

func (h *judge) Open(ctx context.Context, req wire.Request) (*link.Stream, wire.Answer, error) {
	if req.Kind == wire.KindConnect {
		if err := h.says(int(h.n.Add(1))); err != nil {
			return nil, wire.Answer{}, err
		}
	}
	return h.near.Open(ctx, req)
}

// stranger connects a program that we can't look into.
func stranger(t *testing.T, path string) net.Conn {
	t.Helper()
	unknown.Store(true)
	defer unknown.Store(false)
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(limit))
	return c
}

// TestRefusalOfOne has the host refuse one client while another one, whom it has
// let in, is not accepted yet.
func TestRefusalOfOne(t *testing.T) {
	asked, refuse := make(chan bool), make(chan bool)
	h := &judge{says: func(n int) error {
		if n > 1 {
			return nil
		}
		asked <- true
		<-refuse
		return errno.ECONNREFUSED
	}}
	beneath, at, _, _ := mounted(t, func(v *view) {
		h.near = v.opts.Host.(*near)
		v.opts.Host = h
	})
	listen(t, beneath+"/h")
	a := stranger(t, at+"/h")
	defer a.Close()
	<-asked
	b, err := net.Dial("unix", at+"/h")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	close(refuse)
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("who was refused: %v, want %v", err, unix.ECONNRESET)
	}
	if _, err := b.Read(make([]byte, 1)); err != nil {
		t.Errorf("who was let in: %v", err)
	}
}

// TestRefusalWhileAsking is the same for one for whom the host is being asked.
func TestRefusalWhileAsking(t *testing.T) {
	asked, refuse, answer := make(chan bool), make(chan bool), make(chan bool)
	h := &judge{says: func(n int) error {
		asked <- true
		if n > 1 {
			<-answer
			return nil
		}
		<-refuse
		return errno.ECONNREFUSED
	}}
	beneath, at, _, _ := mounted(t, func(v *view) {
		h.near = v.opts.Host.(*near)
		v.opts.Host = h
	})
	listen(t, beneath+"/h")
	a := stranger(t, at+"/h")
	defer a.Close()
	<-asked
	result := make(chan error)
	go func() { result <- answers(at + "/h") }()
	<-asked
	close(refuse)
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("who was refused: %v, want %v", err, unix.ECONNRESET)
	}
	close(answer)
	if err := <-result; err != nil {
		t.Errorf("who was let in: %v", err)
	}
}

// TestWaitOfOne has the host take its time with one client: others don't wait for
// that, and it is let in in the end.
func TestWaitOfOne(t *testing.T) {
	asked, answer := make(chan bool), make(chan bool)
	h := &judge{says: func(n int) error {
		if n == 1 {
			asked <- true
			<-answer
		}
		return nil
	}}
	beneath, at, _, _ := mounted(t, func(v *view) {
		h.near = v.opts.Host.(*near)
		v.opts.Host = h
	})
	listen(t, beneath+"/h")
	a := stranger(t, at+"/h")
	defer a.Close()
	<-asked
	from := time.Now()
	result := make(chan error)
	go func() { result <- answers(at + "/h") }()
	select {
	case err := <-result:
		if err != nil {
			t.Error(err)
		}
		result = nil
	case <-time.After(offerFor):
		t.Errorf("nothing within %v", time.Since(from))
	}
	close(answer)
	if result != nil {
		<-result
	}
	if _, err := a.Read(make([]byte, 1)); err != nil {
		t.Errorf("who has waited: %v", err)
	}
	if n := h.n.Load(); n != 2 {
		t.Errorf("the host was asked %d times", n)
	}
}

// TestRefused is what a program is told where the host's answer is not connect's.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		err  error
		want errno.Errno
	}{
		{errno.Errorf(errno.EACCES, errno.LayerHost, "no"), errno.EACCES},
		{errno.Errorf(errno.EALREADY, errno.LayerAgent, "another thread is at it"), errno.EISCONN},
		{errno.Errorf(errno.ENETDOWN, errno.LayerLink, "lost"), errno.ECONNREFUSED},
		{errors.New("lost"), errno.ECONNREFUSED},
	} {
		if got := number(refused(c.err)); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
}
