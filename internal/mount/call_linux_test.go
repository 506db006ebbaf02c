package mount

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseCall(t *testing.T) {
	for _, c := range []struct {
		text string
		want call
	}{
		{fmt.Sprintf("%d 0x5 0x7f00 0x6e 0x0 0x0 0x0 0x7ffd 0x7f11\n", unix.SYS_CONNECT), call{doing: doingConnect, fd: 5, addr: 0x7f00, size: 0x6e}},
		{fmt.Sprintf("%d 0xffffffff 0x7f00 0x6e 0x0 0x0 0x0 0x7ffd 0x7f11\n", unix.SYS_BIND), call{doing: doingBind, fd: -1, addr: 0x7f00, size: 0x6e}},
		{fmt.Sprintf("%d 0x7 0x1 0x2 0x0 0x0 0x0 0x7ffd 0x7f11\n", compatConnect), call{doing: doingConnect, fd: 7, addr: 1, size: 2}},
		{fmt.Sprintf("%d 0x7 0x1 0x2 0x0 0x0 0x0 0x7ffd 0x7f11\n", unix.SYS_READ), call{doing: doingOther, fd: -1}},
		{fmt.Sprintf("%d 0x7 0x1 0x2 0x0 0x0 0x0 0x7ffd 0x7f11\n", unix.SYS_IO_URING_ENTER), call{fd: -1}},
		{fmt.Sprintf("%d 0xffffff9c 0x7f00 0x280000 0x0 0x0 0x0 0x7ffd 0x7f11\n", unix.SYS_OPENAT), call{doing: doingPath, fd: -1}},
		{fmt.Sprintf("%d 0xffffff9c 0x7f00 0x80000 0x0 0x0 0x0 0x7ffd 0x7f11\n", unix.SYS_OPENAT), call{doing: doingOther, fd: -1}},
		{fmt.Sprintf("%d 0xffffff9c 0x7f00 0x7f80 0x18 0x0 0x0 0x7ffd 0x7f11\n", unix.SYS_OPENAT2), call{doing: doingPath, fd: -1}},
		{fmt.Sprintf("%d 0x7f00 0x280000 0x0 0x0 0x0 0x0 0x7ffd 0x7f11\n", compatOpen), call{doing: doingPath, fd: -1}},
		{"running\n", call{fd: -1}},
		{"-1 0x7ffd 0x7f11\n", call{fd: -1}},
		{"", call{fd: -1}},
		{"x 0x7 0x1 0x2 0x0 0x0 0x0 0x7ffd 0x7f11\n", call{fd: -1}},
		{fmt.Sprintf("%d zero 0x1 0x2 0x0 0x0 0x0 0x7ffd 0x7f11\n", unix.SYS_CONNECT), call{fd: -1}},
	} {
		if got := parseCall([]byte(c.text)); got != c.want {
			t.Errorf("%q: %+v, want %+v", c.text, got, c.want)
		}
	}
}

func FuzzParseCall(f *testing.F) {
	f.Add(fmt.Appendf(nil, "%d 0x5 0x7f00 0x6e 0x0 0x0 0x0 0x7ffd 0x7f11\n", unix.SYS_CONNECT))
	f.Add(fmt.Appendf(nil, "%d 0x2 0x7f00 0x6e 0x0 0x0 0x0 0x7ffd 0x7f11\n", compatSocketcall))
	f.Add([]byte("running\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := parseCall(b)
		if bare := (call{doing: c.doing, fd: -1}); c.doing != doingBind && c.doing != doingConnect && c != bare {
			t.Errorf("%q: %+v", b, c)
		}
	})
}

// TestCallOf looks at a thread of ours that waits in a call.
func TestCallOf(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	tid := make(chan int)
	over := make(chan bool)
	fd := int(r.Fd()) // blocking from now on
	go func() {
		defer close(over)
		runtime.LockOSThread()
		tid <- unix.Gettid()
		_, _ = unix.Read(fd, make([]byte, 1))
	}()
	id := <-tid
	for end := time.Now().Add(10 * time.Second); callOf(id).doing != doingOther; time.Sleep(time.Millisecond) {
		if _, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", id)); err != nil {
			t.Skip(err)
		}
		if time.Now().After(end) {
			t.Fatalf("a thread in read(2): %+v", callOf(id))
		}
	}
	w.Close()
	<-over
	if got := callOf(0).doing; got != doingUnknown {
		t.Errorf("no thread: %v", got)
	}
}

// TestDiag asks the kernel about sockets of this process.
func TestDiag(t *testing.T) {
	d, err := newDiag(0)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	file := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: file}); err != nil {
		t.Fatal(err)
	}
	var own, st unix.Stat_t
	if unix.Fstat(fd, &own) != nil || unix.Stat(file, &st) != nil {
		t.Fatal("stat")
	}
	s, err := d.one(uint32(own.Ino), anyCookie)
	if err != nil || s.listens || s.vfsInode != uint32(st.Ino) || s.vfsDev != unix.Major(st.Dev)<<20|unix.Minor(st.Dev) {
		t.Errorf("bound: %+v, %v, file %d on %x", s, err, st.Ino, st.Dev)
	}
	if err := unix.Listen(fd, 7); err != nil {
		t.Fatal(err)
	}
	cookie := s.cookie
	if s, err = d.one(uint32(own.Ino), cookie); err != nil || !s.listens || s.backlog != 7 {
		t.Errorf("listening: %+v, %v", s, err)
	}
	found := 0
	if err := d.all(func(e *seen) {
		if e.inode == uint32(own.Ino) && e.cookie == cookie && e.listens {
			found++
		}
	}); err != nil || found != 1 {
		t.Errorf("found %d times among all, %v", found, err)
	}
	c, err := net.Dial("unix", file)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	unix.Close(fd)
	if _, err := d.one(uint32(own.Ino), cookie); err != unix.ENOENT {
		t.Errorf("closed: %v, want ENOENT", err)
	}
}

// TestDiagWhileBound asks for sockets while they are bound: they are there all the
// time.
func TestDiagWhileBound(t *testing.T) {
	d, err := newDiag(0)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	dir := t.TempDir()
	for i := range 2000 {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		bound := make(chan error, 1)
		go func() { bound <- unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprint(dir, "/", i)}) }()
		for over := false; !over; {
			select {
			case err := <-bound:
				if err != nil {
					t.Fatal(err)
				}
				over = true
			default:
			}
			if _, err := d.one(uint32(st.Ino), anyCookie); err != nil {
				t.Fatalf("socket %d: %v", i, err)
			}
		}
		unix.Close(fd)
	}
}

func FuzzParseDiag(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{20, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{48, 0, 0, 0, 20, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 10, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 12, 0, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		_, _ = parseDiag(b, func(*seen) { n++ })
		if n > len(b)/16 {
			t.Errorf("%d sockets in %d bytes", n, len(b))
		}
	})
}
