package mount

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stream makes a socket.
func stream(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func (s *sockets) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.bound)
}

// says is answers with little patience.
func says(path string) error {
	c, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	_, err = c.Read(make([]byte, 1))
	return err
}

// TestNameTaken has servers whose name was removed, or given to a next one, live
// on while the link is lost: the name stays what it was.
func TestNameTaken(t *testing.T) {
	beneath, at, h, m := mounted(t, nil)
	listen(t, at+"/removed")
	if err := os.Remove(at + "/removed"); err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := range 8 { // as those to bring back come in no order
		p := fmt.Sprint(at, "/next", i)
		old := stream(t) // who connects to it is not answered
		defer unix.Close(old)
		if err := errors.Join(unix.Bind(old, &unix.SockaddrUnix{Name: p}), unix.Listen(old, 8)); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			if err := os.Remove(p); err != nil {
				t.Fatal(err)
			}
			listen(t, p)
		} else {
			listen(t, p+"~")
			if err := os.Rename(p+"~", p); err != nil {
				t.Fatal(err)
			}
		}
		want = append(want, fmt.Sprint(beneath, "/next", i))
	}
	h.lose()
	h.connect(beneath)
	m.LinkUp()
	for _, p := range want {
		until(t, "the host reaches "+p, func() bool { return says(p) == nil })
	}
	if _, err := os.Lstat(beneath + "/removed"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a name that was removed: %v", err)
	}
}

// TestBindTwice binds a socket that has a name already: it keeps that, and has no
// other.
func TestBindTwice(t *testing.T) {
	beneath, at, h, m := mounted(t, nil)
	fd := stream(t)
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: at + "/a"}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: at + "/b"}); err != unix.EINVAL {
		t.Fatalf("second bind: %v", err)
	}
	until(t, "there is one socket", func() bool { return m.v.sockets.count() == 1 })
	h.lose()
	h.connect(beneath)
	m.LinkUp()
	until(t, "the socket is back", func() bool { _, err := os.Lstat(beneath + "/a"); return err == nil })
	if _, err := os.Lstat(beneath + "/b"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the name that it did not get: %v", err)
	}
}

// TestConnectFails has a socket with a name fail to connect, and be a server then.
func TestConnectFails(t *testing.T) {
	beneath, at, h, m := mounted(t, nil)
	none := stream(t)
	if err := unix.Bind(none, &unix.SockaddrUnix{Name: beneath + "/none"}); err != nil {
		t.Fatal(err)
	}
	unix.Close(none)
	fd := stream(t)
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: at + "/n"}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: at + "/none"}); err != unix.ECONNREFUSED {
		t.Fatalf("connect: %v", err)
	}
	if err := unix.Listen(fd, 8); err != nil {
		t.Fatal(err)
	}
	reached := func() bool {
		c := stream(t)
		defer unix.Close(c)
		return unix.Connect(c, &unix.SockaddrUnix{Name: beneath + "/n"}) == nil
	}
	until(t, "the host reaches the guest", reached)
	h.lose()
	h.connect(beneath)
	m.LinkUp()
	until(t, "the host reaches the guest again", reached)
}

// TestRemovedThenConnects removes the name of a client's socket before it connects.
func TestRemovedThenConnects(t *testing.T) {
	beneath, at, _, _ := mounted(t, nil)
	listen(t, beneath+"/h")
	fd := stream(t)
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: at + "/n"}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(at + "/n"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: at + "/h"}); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Read(fd, make([]byte, 1)); n != 1 {
		t.Errorf("read: %d, %v", n, err)
	}
	if _, err := os.Lstat(beneath + "/n"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a name that was removed: %v", err)
	}
}

// TestThreadsConnectOne has several threads connect one socket that has a name: one
// of them succeeds, and nobody waits.
func TestThreadsConnectOne(t *testing.T) {
	beneath, at, _, _ := mounted(t, nil)
	listen(t, beneath+"/h")
	from := time.Now()
	for i := range 10 {
		fd := stream(t)
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprint(at, "/", i)}); err != nil {
			t.Fatal(err)
		}
		errs := make(chan error, 3)
		for range cap(errs) {
			go func() { errs <- unix.Connect(fd, &unix.SockaddrUnix{Name: at + "/h"}) }()
		}
		connected := 0
		for range cap(errs) {
			switch err := <-errs; err {
			case nil:
				connected++
			case unix.EISCONN, unix.EINVAL:
			default:
				t.Errorf("round %d: %v", i, err)
			}
		}
		if connected != 1 {
			t.Errorf("round %d: %d threads connected", i, connected)
		}
		unix.Close(fd)
	}
	if d := time.Since(from); d > limit/2 {
		t.Errorf("took %v", d)
	}
}

// TestPathAfterRelease asks for a path when the view is no more, as who has waited
// for the host until then may.
func TestPathAfterRelease(t *testing.T) {
	_, _, _, m := mounted(t, nil)
	root := m.v.root()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	<-m.Done()
	if _, err := m.v.hostPath(root, "x"); err != unix.ENOTCONN {
		t.Errorf("path in a view that is gone: %v", err)
	}
}
