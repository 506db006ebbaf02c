//go:build linux

package mount

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// fullServer is a server of the host that has no room for one more client, until
// room is called.
func fullServer(t *testing.T, path string) (room func()) {
	t.Helper()
	fd := bindAt(t, path)
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return func() {
		for range 2 {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			if n, err := unix.Poll(p, int(patience.Milliseconds())); n != 1 {
				t.Errorf("nobody comes: %v", err)
				return
			}
			s, _, err := unix.Accept(fd)
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = unix.Write(s, []byte("x"))
			unix.Close(s)
		}
	}
}

// patiently connects by a socket that waits, as those of Go don't.
func patiently(path string) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

// TestConnectWaits has a program wait for a server of the host that has no room.
// Others go on in that folder, and the program gets through in the end.
func TestConnectWaits(t *testing.T) {
	f := newFolders(t, 0)
	room := fullServer(t, f.beneath+"/full")
	answered := make(chan error, 1)
	begun := make(chan bool)
	go func() {
		close(begun)
		c, err := patiently(f.view + "/full")
		if err == nil {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(2 * patience))
			_, err = c.Read(make([]byte, 1))
		}
		answered <- err
	}()
	<-begun
	time.Sleep(200 * time.Millisecond) // and it waits
	for what, fn := range map[string]func() error{
		"list":      func() error { _, err := os.ReadDir(f.view); return err },
		"make":      func() error { return os.WriteFile(f.view+"/file", nil, 0o644) },
		"attribute": func() error { _, err := os.Lstat(f.view + "/full"); return err },
	} {
		if err := bounded(t, f.view, fn); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	select {
	case err := <-answered:
		t.Fatalf("the program does not wait: %v", err)
	default:
	}
	room()
	if err := <-answered; err != nil {
		t.Errorf("when there is room: %v", err)
	}
}

// TestConnectSignals has signals come to a program whose socket doesn't block, in a connect
// that takes as long as the agent stands still. Natively such a call is never interrupted;
// Go's runtime, which sends these signals to itself, takes EINTR for a connection that is
// being made, and waits for its end.
func TestConnectSignals(t *testing.T) {
	f, m := newView(t, 0)
	l, err := net.Listen("unix", f.beneath+"/h")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	agent := children(t, m.Cmd.Process.Pid)[0]
	if err := unix.Kill(agent, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer unix.Kill(agent, unix.SIGCONT)
	answered := make(chan error, 1)
	go func() {
		c, err := net.Dial("unix", f.view+"/h")
		if err == nil {
			_ = c.Close()
		}
		answered <- err
	}()
	for range 40 {
		time.Sleep(25 * time.Millisecond)
		tasks, _ := os.ReadDir("/proc/self/task")
		for _, task := range tasks {
			if tid, err := strconv.Atoi(task.Name()); err == nil {
				_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG)
			}
		}
	}
	_ = unix.Kill(agent, unix.SIGCONT)
	select {
	case err := <-answered:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("the connect does not end")
	}
}

// TestConnectGivenUp has the server close instead, and the program go away.
func TestConnectGivenUp(t *testing.T) {
	f, m := newView(t, 0)
	_ = fullServer(t, f.beneath+"/gone")
	agent := children(t, m.Cmd.Process.Pid)[0]
	fds := func() int {
		l, _ := os.ReadDir(filepath.Join("/proc", strconv.Itoa(agent), "fd"))
		return len(l)
	}
	before, since := fds(), time.Now()
	until(t, "the agent rests", func() bool {
		if n := fds(); n != before {
			before, since = n, time.Now()
		}
		return time.Since(since) > 300*time.Millisecond
	})
	c, err := patiently(f.view + "/gone")
	if err != nil {
		t.Fatal(err)
	}
	until(t, "somebody asks for the program", func() bool { return fds() > before })
	c.Close()
	until(t, "nobody asks any more", func() bool { return fds() <= before })

	fd := bindAt(t, f.beneath+"/refuses")
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	fill, err := net.Dial("unix", f.beneath+"/refuses")
	if err != nil {
		t.Fatal(err)
	}
	defer fill.Close()
	c, err = patiently(f.view + "/refuses")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = unix.Shutdown(fd, unix.SHUT_RDWR) // as close would
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a program that is refused late reads %v, want ECONNRESET", err)
	}
}

// TestForeignAttributes has another user look at attributes and ACLs, in a folder
// and in a view.
func TestForeignAttributes(t *testing.T) {
	f := newFolders(t, 0)
	try := func(dir string) []string {
		p := &posix{root: dir}
		if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(p.at("f"), nil, 0o644), os.Chown(p.at("f"), rig.User, rig.Other), unix.Chmod(p.at("f"), 0o2775),
			unix.Setxattr(p.at("f"), "user.x", []byte("x"), 0)); err != nil {
			t.Fatal(err)
		}
		p.note("trusted by root", unix.Setxattr(p.at("f"), "trusted.x", []byte("x"), 0))
		// Version 2: the owner, user 7, the group, the mask, others.
		acl := []byte{2, 0, 0, 0}
		for _, e := range [][2]uint32{{0o1 | 7<<16, ^uint32(0)}, {0o2 | 6<<16, 7}, {0o4 | 7<<16, ^uint32(0)}, {0o20 | 7<<16, ^uint32(0)}, {0o40 | 5<<16, ^uint32(0)}} {
			for _, v := range e {
				acl = append(acl, byte(v), byte(v>>8), byte(v>>16), byte(v>>24))
			}
		}
		for _, uid := range []uint32{rig.User, 0} {
			_ = byThread(uid, func() error {
				b := make([]byte, 200)
				n, err := unix.Listxattr(p.at("f"), b)
				p.note("list", err, string(b[:max(n, 0)]))
				n, err = unix.Listxattr(p.at("f"), nil)
				p.note("size", err, n)
				_, err = unix.Listxattr(p.at("f"), b[:3])
				p.note("no room", err)
				p.note("acl", unix.Setxattr(p.at("f"), "system.posix_acl_access", acl, 0))
				p.stat("f")
				return unix.Chmod(p.at("f"), 0o2775)
			})
			_ = unix.Chmod(p.at("f"), 0o2775)
		}
		return p.log
	}
	want, got := try(f.bare), try(f.view)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("in the folder (-) is not as in the view (+):\n%s", d)
	}
}
