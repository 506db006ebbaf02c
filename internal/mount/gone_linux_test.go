package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/link"
	"drvsock/internal/wire"
)

// TestBindWhenUnmounted binds from a folder of a view that somebody has unmounted:
// there will be nobody to let host programs in, nor to see the socket's end.
func TestBindWhenUnmounted(t *testing.T) {
	beneath, at, _, m := mounted(t, nil)
	dir, err := unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	<-m.Unmounted()
	m.v.sockets.close() // which has begun
	fd := stream(t)
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: procFD(dir) + "/n"}); err != unix.ENOTCONN {
		t.Errorf("bind: %v, want %v", err, unix.ENOTCONN)
	}
	if n := m.v.sockets.count(); n > 0 {
		t.Errorf("%d sockets are left", n)
	}
	if _, err := os.Lstat(beneath + "/n"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its file: %v", err)
	}
}

// meddling is a Host that does something when it is first asked to route for a socket.
type meddling struct {
	*near
	first atomic.Pointer[func()]
}

func (h *meddling) Route(s *link.Stream, fn func(*link.Incoming)) {
	h.near.Route(s, fn)
	if f := h.first.Swap(nil); f != nil {
		(*f)()
	}
}

// TestUnmountedWhileBinding has the view go while a socket is bound in it.
func TestUnmountedWhileBinding(t *testing.T) {
	h := &meddling{}
	var v *view
	beneath, at, _, _ := mounted(t, func(w *view) {
		v, h.near = w, w.opts.Host.(*near)
		w.opts.Host = h
	})
	then := v.sockets.close
	h.first.Store(&then)
	fd := stream(t)
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: at + "/n"}); err != unix.ENOTCONN {
		t.Errorf("bind: %v, want %v", err, unix.ENOTCONN)
	}
	if n := v.sockets.count(); n > 0 {
		t.Errorf("%d sockets are left", n)
	}
	until(t, "its file is gone", func() bool {
		_, err := os.Lstat(beneath + "/n")
		return errors.Is(err, os.ErrNotExist)
	})
}

// losing is a Host that loses the link behind a KindBind.
type losing struct{ *near }

func (h *losing) Open(ctx context.Context, req wire.Request) (*link.Stream, wire.Answer, error) {
	s, ans, err := h.near.Open(ctx, req)
	if req.Kind == wire.KindBind {
		h.lose()
	}
	return s, ans, err
}

// TestLinkLostWithFile loses the link, and with it the socket's file, before that
// was seen: it is as if there had been no link.
func TestLinkLostWithFile(t *testing.T) {
	_, at, _, _ := mounted(t, func(v *view) { v.opts.Host = &losing{v.opts.Host.(*near)} })
	fd := stream(t)
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: at + "/n"}); err != unix.ENETDOWN {
		t.Errorf("bind: %v, want %v", err, unix.ENETDOWN)
	}
}

// TestLinkLostWhileBinding has another link take the place of the one by which a
// socket is bound, before that is known as one to bring back.
func TestLinkLostWhileBinding(t *testing.T) {
	h := &meddling{}
	beneath, at, _, m := mounted(t, func(v *view) {
		h.near = v.opts.Host.(*near)
		v.opts.Host = h
	})
	again := func() {
		h.lose()
		h.connect(beneath)
		m.LinkUp()
		time.Sleep(50 * time.Millisecond) // in which all sockets are brought back
	}
	h.first.Store(&again)
	for i := range 2 {
		listen(t, fmt.Sprint(at, "/", i))
	}
	for i := range 2 {
		p := fmt.Sprint(beneath, "/", i)
		until(t, "the host reaches the guest", func() bool { return answers(p) == nil })
	}
}
