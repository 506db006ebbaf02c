package socket

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
)

// roleVar says what a copy of the test binary plays.
const roleVar = "DRVSOCK_SOCKET_TEST"

// nobody is the uid of the tests' second account.
const nobody = 65534

func play(args []string) bool {
	switch os.Getenv(roleVar) {
	case "connect": // once, natively: prints the number
		fmt.Println(int(connectNative(args[1])))
	case "knock": // natively: whether what is sent comes back
		c, err := net.Dial("unix", args[1])
		if err == nil {
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.WriteString(c, "x")
			_, err = io.ReadFull(c, make([]byte, 1))
			_ = c.Close()
		}
		fmt.Println(err == nil)
	case "storm": // until it got in, or stdin ends
		ended := make(chan struct{})
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			close(ended)
		}()
		fmt.Println("ready")
		for {
			select {
			case <-ended:
				fmt.Println("never")
				return true
			default:
			}
			if connectNative(args[1]) == 0 {
				fmt.Println("in")
				return true
			}
		}
	case "group": // listens with a group, and says what came of it
		for _, gid := range []int{4321, 5555} {
			l, err := Listen(unixName(args[1]), Options{Mode: 0o660, UID: -1, GID: gid})
			var st unix.Stat_t
			look := unix.Lstat(args[1], &st)
			number := errno.Errno(0)
			if e := errno.FromSystem(err, 0); e != nil {
				number = e.Errno
			}
			fmt.Println(int(number), look, fmt.Sprintf("%#o", st.Mode&0o7777), st.Gid)
			if err == nil {
				_ = l.Close()
			}
		}
	case "listen": // natively, until stdin ends
		l, err := net.Listen("unix", args[1])
		fmt.Println(err)
		_, _ = io.Copy(io.Discard, os.Stdin)
		if err == nil {
			_ = l.Close()
		}
	case "tcp":
		c, err := net.Dial("tcp", args[1])
		fmt.Println(err)
		_, _ = io.Copy(io.Discard, os.Stdin)
		if err == nil {
			_ = c.Close()
		}
	case "tcp both families": // as Java does: by a socket of IPv6 that is an IPv4 connection
		to := netip.MustParseAddrPort(args[1])
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
		}
		fmt.Println(err)
		_, _ = io.Copy(io.Discard, os.Stdin)
	default:
		return false
	}
	return true
}

// connectNative connects by the system's own means.
func connectNative(path string) syscall.Errno {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		panic(err)
	}
	defer unix.Close(fd)
	var e syscall.Errno
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); errors.As(err, &e) {
		return e
	}
	return 0
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
		Args:       append([]string{"socket.test"}, args...),
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

// running starts a child and returns its first line; end ends its standard
// input and returns the rest.
func running(t testing.TB, cmd *exec.Cmd) (first string, end func() string) {
	t.Helper()
	in, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	var b [1]byte
	for !strings.HasSuffix(first, "\n") {
		if _, err := out.Read(b[:]); err != nil {
			break
		}
		first += string(b[:])
	}
	end = func() string {
		_ = in.Close()
		rest, _ := io.ReadAll(out)
		check(t, cmd.Wait())
		return strings.TrimSpace(string(rest))
	}
	return strings.TrimSpace(first), end
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to act under two uids: sudo go test ./internal/socket")
	}
}

// folder makes a folder with a short path that every uid may search.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "sck")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	check(t, os.Chmod(dir, 0o755))
	return dir
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

// noDescriptorLeft checks, when the test is over, that it closed what it opened.
func noDescriptorLeft(t testing.TB) {
	t.Helper()
	// The runtime's own poller comes with the first socket and stays.
	if c, err := net.ListenUnix("unix", &net.UnixAddr{Name: "@", Net: "unix"}); err == nil {
		_ = c.Close()
	}
	count := func() int {
		d, err := os.ReadDir("/proc/self/fd")
		check(t, err)
		return len(d)
	}
	before := count()
	t.Cleanup(func() {
		if !t.Failed() {
			eventually(t, fmt.Sprintf("%d descriptors as before", before), func() bool { return count() <= before })
		}
	})
}
