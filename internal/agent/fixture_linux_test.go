package agent

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/afunix"
)

// nobody is the uid of the tests' second account.
const nobody = 65534

// folder makes a folder with a short path that every uid may search.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "agt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	check(t, os.Chmod(dir, 0o755))
	return dir
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// listener listens natively at path; it takes connections if serve isn't nil.
func listener(t testing.TB, path string, serve func(*net.UnixConn)) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	check(t, err)
	check(t, os.Chmod(path, 0o777))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for serve != nil {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l
}

// bound binds a native socket of the type at path without listening.
func bound(t testing.TB, path string, typ int) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	check(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	check(t, os.Chmod(path, 0o777))
	return fd
}

// full makes a listener whose backlog has no room left.
func full(t testing.TB, path string) {
	t.Helper()
	fd := bound(t, path, unix.SOCK_STREAM)
	check(t, unix.Listen(fd, 0))
	for range 100 {
		c, err := afunix.NewSocket()
		check(t, err)
		t.Cleanup(func() { _ = unix.Close(c) })
		switch err := afunix.Connect(c, path); err {
		case nil:
		case unix.EAGAIN:
			return
		default:
			t.Fatal(err)
		}
	}
	t.Fatal("backlog never full")
}

// scene fills dir with what the calls of the tables meet.
func scene(t testing.TB, dir string) {
	t.Helper()
	p := func(name string) string { return filepath.Join(dir, name) }
	listener(t, p("live"), func(c *net.UnixConn) { _ = c.Close() })
	listener(t, p("shut"), func(c *net.UnixConn) { _ = c.Close() })
	check(t, os.Chmod(p("shut"), 0o755))
	l := listener(t, p("stale"), nil)
	l.SetUnlinkOnClose(false)
	check(t, l.Close())
	bound(t, p("silent"), unix.SOCK_STREAM)
	bound(t, p("dgram"), unix.SOCK_DGRAM)
	full(t, p("full"))
	check(t, os.WriteFile(p("file"), nil, 0o666))
	check(t, os.Chmod(p("file"), 0o666))
	check(t, os.Mkdir(p("dir"), 0o755))
	check(t, os.Mkdir(p("private"), 0o700))
	listener(t, p("private/live"), func(c *net.UnixConn) { _ = c.Close() })
	check(t, os.Mkdir(p("open"), 0o777))
	check(t, os.Chmod(p("open"), 0o777))
	check(t, os.Symlink("loop", p("loop")))
	check(t, os.Symlink("live", p("link")))
	check(t, os.Symlink("nothing", p("dangling")))
	check(t, os.Symlink(strings.Repeat("n", 300), p("toolong")))
	check(t, os.Mkdir(p("sticky"), 0o777))
	check(t, os.Chmod(p("sticky"), 0o777|os.ModeSticky))
	listener(t, p("sticky/live"), nil)
	listener(t, p("we:ird"), func(c *net.UnixConn) { _ = c.Close() })
}

// child is a copy of the test binary in a role, under uid.
func child(t testing.TB, uid uint32, role string, args ...string) *exec.Cmd {
	t.Helper()
	// By descriptor: the folder of the binary is closed to other uids.
	exe, err := os.Open("/proc/self/exe")
	check(t, err)
	t.Cleanup(func() { _ = exe.Close() })
	cmd := &exec.Cmd{
		Path:       "/proc/self/fd/3",
		Args:       append([]string{"agent.test"}, args...),
		Env:        append(os.Environ(), roleVar+"="+role, "GORACE=atexit_sleep_ms=0"),
		Dir:        "/",
		Stderr:     os.Stderr,
		ExtraFiles: []*os.File{exe},
	}
	if uid != uint32(os.Getuid()) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	return cmd
}

// nativeAs makes calls, pairs of a call and a path, natively under a uid.
func nativeAs(t testing.TB, uid uint32, calls []string) []syscall.Errno {
	t.Helper()
	cmd := child(t, uid, "native", calls...)
	out, err := cmd.Output()
	check(t, err)
	var all []syscall.Errno
	for _, f := range strings.Fields(string(out)) {
		n, err := strconv.Atoi(f)
		check(t, err)
		all = append(all, syscall.Errno(n))
	}
	if len(all) != len(calls)/2 {
		t.Fatalf("%d answers to %d calls", len(all), len(calls)/2)
	}
	return all
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to act under two uids: sudo go test ./internal/agent")
	}
}

// host path of a name below the drive's folder.
func hostPath(name string) []byte {
	return []byte(`C:\` + strings.ReplaceAll(name, "/", `\`))
}

// eventually waits for ok, which has to come true by itself.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came true: %s", what)
		}
	}
}

// descriptors counts the open ones of this process.
func descriptors(t testing.TB) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	return len(d)
}

// noDescriptorLeft checks, when the test is over, that it closed what it opened.
// Call it before anything whose cleanup closes descriptors.
func noDescriptorLeft(t testing.TB) {
	t.Helper()
	// The runtime's own poller comes with the first socket and stays.
	if c, err := net.ListenUnix("unix", &net.UnixAddr{Name: "@", Net: "unix"}); err == nil {
		_ = c.Close()
	}
	before := descriptors(t)
	t.Cleanup(func() {
		if !t.Failed() {
			eventually(t, fmt.Sprintf("%d descriptors as before", before), func() bool { return descriptors(t) <= before })
		}
	})
}

// syncBuffer is a log that is read while it is written.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.buf.Bytes())
}

func testLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
