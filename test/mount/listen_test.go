//go:build linux

package mount

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// lateView is a view whose host sockets listen no earlier than is seen.
func lateView(t *testing.T) folders {
	t.Helper()
	f := bareFolders(t, 0)
	m := f.command(t, 0)
	m.Cmd.Args = append(m.Cmd.Args[:2:2], append([]string{"--listen-late"}, m.Cmd.Args[2:]...)...)
	m.Start()
	return f
}

// bindAt binds a socket and leaves it at that. A program that does no more is as
// good as any that has not come to listen yet.
func bindAt(t *testing.T, path string) (fd int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestListenEarly is the default: no program of the host is refused by a server
// that has begun to listen, were it in the same moment. One that comes before
// that waits, and is let in if the server listens in time.
func TestListenEarly(t *testing.T) {
	f := newFolders(t, 0)
	for i := range 100 {
		name := fmt.Sprint("n", i)
		fd := bindAt(t, filepath.Join(f.view, name))
		if i%10 == 0 { // when the watch looks seldom
			time.Sleep(100 * time.Millisecond)
		}
		if err := unix.Listen(fd, 1); err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("unix", filepath.Join(f.beneath, name))
		if err != nil {
			t.Errorf("round %d: connect right after listen: %v", i, err)
			continue
		}
		c.Close()
		unix.Close(fd)
	}
	fd := bindAt(t, f.view+"/waits")
	c, err := net.Dial("unix", f.beneath+"/waits")
	if err != nil {
		t.Fatalf("connect before listen: %v", err)
	}
	defer c.Close()
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	conn, _, err := unix.Accept(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(conn)
	if _, err := unix.Write(conn, []byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Errorf("a program that came before listen: %v", err)
	}
	bindAt(t, f.view+"/never")
	never, err := net.Dial("unix", f.beneath+"/never")
	if err != nil {
		t.Fatalf("connect without listen: %v", err)
	}
	defer never.Close()
	_ = never.SetDeadline(time.Now().Add(patience))
	if n, err := never.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("where nobody ever listens: %d bytes, %v", n, err)
	}
}

// TestListenLate is the other way: refusals are those of one machine, but a
// server that has just begun to listen is seen to do so a moment later.
func TestListenLate(t *testing.T) {
	f := lateView(t)
	late := 0
	var most time.Duration
	for i := range 40 {
		name := fmt.Sprint("n", i)
		fd := bindAt(t, filepath.Join(f.view, name))
		at := filepath.Join(f.beneath, name)
		if i%4 == 0 {
			time.Sleep(100 * time.Millisecond)
		}
		if c, err := net.Dial("unix", at); !errors.Is(err, unix.ECONNREFUSED) {
			if err == nil {
				c.Close()
			}
			t.Errorf("connect before listen: %v, want ECONNREFUSED", err)
		}
		if err := unix.Listen(fd, 1); err != nil {
			t.Fatal(err)
		}
		from := time.Now()
		refused := 0
		until(t, "the server is seen to listen", func() bool {
			c, err := net.Dial("unix", at)
			if err != nil {
				refused++
				return false
			}
			c.Close()
			return true
		})
		if refused > 0 {
			late++
			most = max(most, time.Since(from))
		}
		unix.Close(fd)
	}
	t.Logf("%d of 40 servers refused somebody after listen, for up to %v", late, most.Round(time.Millisecond))
}

// TestStale has nobody listen at the host's socket. A program of which /proc says
// nothing, as with Yama's ptrace_scope and for one that is not dumpable, can't be
// refused in time: its connection is reset.
func TestStale(t *testing.T) {
	for _, c := range []struct {
		uid  uint32
		want error
	}{{0, unix.ECONNREFUSED}, {rig.Nobody, unix.ECONNRESET}} {
		f := newFolders(t, c.uid)
		l, err := net.Listen("unix", f.beneath+"/s")
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
		if err := os.Chmod(f.beneath+"/s", 0o777); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			// Which makes this process one that is not dumpable.
			if err := become(c.uid); err != nil {
				done <- err
				return
			}
			done <- answers(f.view + "/s")
		}()
		if err := <-done; !errors.Is(err, c.want) {
			t.Errorf("as %d: %v, want %v", c.uid, err, c.want)
		}
	}
}
