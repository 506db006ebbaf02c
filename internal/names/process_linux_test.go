package names

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"drvsock/internal/errno"

	"golang.org/x/sys/unix"
)

func TestBindTwice(t *testing.T) {
	k := start(t)
	fd := socket(t, unix.SOCK_STREAM)
	defer unix.Close(fd)
	bindName(t, k, fd, sockaddr("/a/s")).Close()
	if _, err := k.Bind(fd, sockaddr("/a/t")); !errors.Is(err, errno.EINVAL) {
		t.Errorf("second bind of one socket: %v, want EINVAL", err)
	}
	// The failure left no folder behind that would be in the way of a file.
	for _, p := range []string{"/a", "/a/s", "a"} {
		fd := socket(t, unix.SOCK_STREAM)
		bindName(t, k, fd, sockaddr(p)).Close()
		unix.Close(fd)
	}
}

func TestBindWrong(t *testing.T) {
	k := start(t)
	inet, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(inet)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	closed := socket(t, unix.SOCK_STREAM)
	unix.Close(closed)
	for _, tt := range []struct {
		name string
		fd   int
		want errno.Errno
	}{
		{"no socket", int(null.Fd()), errno.ENOTSOCK},
		{"closed", closed, errno.EBADF},
		{"negative", -1, errno.EBADF},
		{"inet", inet, errno.Errno(rawBind(inet, sockaddr("/x")).(unix.Errno))},
	} {
		if _, err := k.Bind(tt.fd, sockaddr("/x")); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	fd := socket(t, unix.SOCK_STREAM)
	defer unix.Close(fd)
	bindName(t, k, fd, sockaddr("/x")).Close() // still of use
}

// TestProcess looks at the keeper's process from outside.
func TestProcess(t *testing.T) {
	asNobody(t)
	// As if the user's shell had left one open.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	var pid int
	k, err := Start(func(argv []string, files []*os.File, attr *syscall.SysProcAttr) (func() error, func(), error) {
		files = append(files, w)
		p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{Files: files, Sys: attr})
		if err != nil {
			return nil, nil, err
		}
		pid = p.Pid
		return func() error { _, err := p.Wait(); return err }, func() { _ = p.Kill() }, nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	proc := "/proc/" + strconv.Itoa(pid)
	for i := range 3 {
		if got, _ := os.Readlink(fmt.Sprintf("%s/fd/%d", proc, i)); got != os.DevNull {
			t.Errorf("descriptor %d of the keeper is %q, want %q", i, got, os.DevNull)
		}
	}
	if got, err := os.Readlink(proc + "/fd/4"); err == nil && strings.HasPrefix(got, "pipe:") {
		t.Errorf("descriptor 4 of the keeper is %q, which was inherited", got)
	}
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("session of the keeper is %d, %v; want its own, %d", sid, err, pid)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Errorf("keeper after Close: %v, want %v", err, unix.ESRCH)
	}
	if _, err := k.Bind(0, sockaddr("x")); !errors.Is(err, ErrUnavailable) || !errors.Is(err, os.ErrClosed) {
		t.Errorf("bind after Close: %v, want ErrUnavailable and ErrClosed", err)
	}
}

// TestKilled kills the keeper: what has a name keeps it, new ones are refused.
func TestKilled(t *testing.T) {
	k := start(t)
	l := socket(t, unix.SOCK_STREAM)
	defer unix.Close(l)
	name := bindName(t, k, l, sockaddr("/mnt/c/s"))
	defer name.Close()
	k.kill()
	select {
	case <-k.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("Done isn't closed")
	}
	fd := socket(t, unix.SOCK_STREAM)
	defer unix.Close(fd)
	for range 2 {
		if _, err := k.Bind(fd, sockaddr("/x")); !errors.Is(err, ErrUnavailable) {
			t.Errorf("bind without a keeper: %v, want ErrUnavailable", err)
		}
	}
	if err := unix.Listen(l, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: pathOf(name)}); err != nil {
		t.Errorf("connect by a name whose keeper is gone: %v", err)
	}
}

// TestHung has a keeper that never answers; the caller's bound ends the wait.
func TestHung(t *testing.T) {
	k := start(t)
	tv := unix.NsecToTimeval(int64(50 * time.Millisecond))
	if err := unix.SetsockoptTimeval(k.sock, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		t.Fatal(err)
	}
	pid := childPID(t)
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	fd := socket(t, unix.SOCK_STREAM)
	defer unix.Close(fd)
	if _, err := k.Bind(fd, sockaddr("/x")); !errors.Is(err, ErrUnavailable) || !errors.Is(err, unix.EAGAIN) {
		t.Errorf("bind by a stopped keeper: %v, want ErrUnavailable and EAGAIN", err)
	}
}

// childPID returns the process that runs the keeper, the only child there is.
func childPID(t *testing.T) int {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range tasks {
		b, _ := os.ReadFile(f)
		for p := range strings.FieldsSeq(string(b)) {
			pid, err := strconv.Atoi(p)
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatal("no child")
	return 0
}

// TestMany binds from several goroutines and looks for what is left, here and
// in the keeper.
func TestMany(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	k := start(t)
	before, there := descriptors(t), fmt.Sprintf("/proc/%d/fd", childPID(t))
	theirs, err := os.ReadDir(there)
	if err != nil {
		t.Fatal(err)
	}
	const workers, each = 4, 2500
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					t.Error(err)
					return
				}
				sa := sockaddr(fmt.Sprintf("/mnt/c/%d/%d.sock\x00", w%2, i%10))
				n, err := k.Bind(fd, sa)
				if err != nil {
					t.Error(err)
					unix.Close(fd)
					return
				}
				if got := rawName(t, unix.SYS_GETSOCKNAME, fd); !bytes.Equal(got, sa) {
					t.Errorf("getsockname = %q, want %q", got, sa)
				}
				n.Close()
				unix.Close(fd)
			}
		})
	}
	wg.Wait()
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	after, err := os.ReadDir(there)
	if err != nil {
		t.Fatal(err)
	}
	if len(after) > len(theirs)+1 {
		t.Errorf("keeper has %d descriptors, %d before", len(after), len(theirs))
	}
}

func BenchmarkBind(b *testing.B) {
	k := start(b)
	for _, p := range []string{"server.sock", "/mnt/c/Users/me/AppData/server.sock"} {
		b.Run(p, func(b *testing.B) {
			sa := sockaddr(p)
			b.ReportAllocs()
			for b.Loop() {
				fd := socket(b, unix.SOCK_STREAM)
				n, err := k.Bind(fd, sa)
				if err != nil {
					b.Fatal(err)
				}
				n.Close()
				unix.Close(fd)
			}
		})
	}
}

// pathOf is the path of Use; the caller keeps the name open.
func pathOf(n *Name) (path string) {
	_ = n.Use(func(p string) error { path = p; return nil })
	return path
}

// TestUse closes a name while it is in use: the number stays its own until then.
func TestUse(t *testing.T) {
	k := start(t)
	a := socket(t, unix.SOCK_STREAM)
	defer unix.Close(a)
	name := bindName(t, k, a, sockaddr("/a"))
	var want unix.Stat_t
	if err := unix.Stat(pathOf(name), &want); err != nil {
		t.Fatal(err)
	}
	err := name.Use(func(path string) error {
		if err := name.Close(); err != nil {
			t.Error(err)
		}
		// Were the descriptor closed, this would get its number.
		p, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(p)
		var got unix.Stat_t
		if err := unix.Stat(path, &got); err != nil || got.Ino != want.Ino || got.Dev != want.Dev {
			t.Errorf("closed while in use, the path leads to inode %d, %v, want %d", got.Ino, err, want.Ino)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	called := false
	if err := name.Use(func(string) error { called = true; return nil }); err != unix.ECONNREFUSED || called {
		t.Errorf("use after close: %v, called %v, want ECONNREFUSED", err, called)
	}
}
