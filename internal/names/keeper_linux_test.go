package names

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"drvsock/internal/errno"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// start gives the test a keeper and checks that nothing is left of it.
func start(t testing.TB) *Keeper {
	t.Helper()
	before := descriptors(t)
	k, err := Start(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors open after the test, %d before", after, before)
		}
	})
	return k
}

func descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func socket(t testing.TB, typ int) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// sockaddr gives the bytes of a sockaddr_un whose path is p and nothing more.
func sockaddr(p string) []byte {
	return append(binary.NativeEndian.AppendUint16(nil, unix.AF_UNIX), p...)
}

func rawBind(fd int, sa []byte) error {
	var p unsafe.Pointer
	if len(sa) > 0 {
		p = unsafe.Pointer(&sa[0])
	}
	_, _, e := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(p), uintptr(len(sa)))
	if e != 0 {
		return e
	}
	return nil
}

// rawName calls getsockname or getpeername and returns all that the kernel
// says, the length included, which may exceed sizeof(struct sockaddr_un).
func rawName(t testing.TB, call uintptr, fd int) []byte {
	t.Helper()
	var buf [256]byte
	n := uint32(len(buf))
	_, _, e := unix.Syscall(call, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&n)))
	if e != 0 {
		t.Fatalf("syscall %d: %v", call, e)
	}
	return buf[:n]
}

func bindName(t testing.TB, k *Keeper, fd int, sa []byte) *Name {
	t.Helper()
	n, err := k.Bind(fd, sa)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// asNobody runs the calling test once more in a process of an ordinary user.
func asNobody(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Dir = "/tmp"
	cmd.Env = append(os.Environ(), "HOME=/tmp", "TMPDIR=/tmp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as user 65534: %v\n%s", err, out)
	} else if !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("as user 65534 the test didn't run:\n%s", out)
	}
}

// nativeNames are the paths of the oracle test. Folders that they need are made
// for the native bind; the keeper gets none.
var nativeNames = []struct {
	name string
	sa   []byte
	typ  int
}{
	{"relative", sockaddr("server.sock"), unix.SOCK_STREAM},
	{"relative, final NUL", sockaddr("server.sock\x00"), unix.SOCK_STREAM},
	{"relative, bytes after NUL", sockaddr("server.sock\x00junk"), unix.SOCK_STREAM},
	{"relative, whole struct", append(sockaddr("server.sock"), make([]byte, 97)...), unix.SOCK_STREAM},
	{"one byte", sockaddr("x"), unix.SOCK_STREAM},
	{"relative folder", sockaddr("a/b/s"), unix.SOCK_STREAM},
	{"absolute", sockaddr("/mnt/c/tmp/server.sock"), unix.SOCK_STREAM},
	{"absolute in root", sockaddr("/s"), unix.SOCK_STREAM},
	{"dots", sockaddr("./a/./s"), unix.SOCK_STREAM},
	{"parent", sockaddr("../s"), unix.SOCK_STREAM},
	{"parents and folders", sockaddr("../../a/../b/s"), unix.SOCK_STREAM},
	{"up and down", sockaddr("/a/b/../c/s"), unix.SOCK_STREAM},
	{"slashes", sockaddr("//a///s"), unix.SOCK_STREAM},
	{"108 bytes", sockaddr(strings.Repeat("x", 108)), unix.SOCK_STREAM},
	{"108 bytes, absolute", sockaddr("/" + strings.Repeat("a/", 53) + "s"), unix.SOCK_STREAM},
	{"107 bytes and NUL", sockaddr(strings.Repeat("y", 107) + "\x00"), unix.SOCK_STREAM},
	{"not UTF-8", sockaddr("/\xff\xfe/\x80\n s"), unix.SOCK_STREAM},
	{"datagram", sockaddr("/a/d"), unix.SOCK_DGRAM},
	{"seqpacket", sockaddr("/a/q"), unix.SOCK_SEQPACKET},
	{"is a folder", sockaddr("a/.."), unix.SOCK_STREAM},
	{"is this folder", sockaddr("a/."), unix.SOCK_STREAM},
	{"is the root", sockaddr("/"), unix.SOCK_STREAM},
	{"final slash", sockaddr("a/s/"), unix.SOCK_STREAM},
	{"family alone", sockaddr(""), unix.SOCK_STREAM},
	{"109 bytes", sockaddr(strings.Repeat("x", 109)), unix.SOCK_STREAM},
	{"other family", []byte{2, 0, 'x', 0}, unix.SOCK_STREAM},
	{"one byte of family", []byte{1}, unix.SOCK_STREAM},
	{"nothing", nil, unix.SOCK_STREAM},
}

// TestNativeOracle binds each name natively, in a chroot where its folders are
// there, and by the keeper, and compares error and getsockname to the byte.
func TestNativeOracle(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for a chroot to compare with: sudo go test ./internal/names")
	}
	k := start(t)
	for _, tt := range nativeNames {
		t.Run(tt.name, func(t *testing.T) {
			want := nativeBind(t, t.TempDir(), tt.typ, tt.sa)
			fd := socket(t, tt.typ)
			defer unix.Close(fd)
			got := "errno 0"
			n, err := k.Bind(fd, tt.sa)
			if err != nil {
				var e *errno.Error
				if !errors.As(err, &e) {
					t.Fatalf("error %v (%T) carries no number", err, err)
				}
				got = fmt.Sprintf("errno %d", e.Errno)
			} else {
				n.Close()
			}
			got += fmt.Sprintf(" name %q", rawName(t, unix.SYS_GETSOCKNAME, fd))
			if tt.name == "family alone" {
				// The kernel would choose an abstract name; the caller leaves
				// such calls to it.
				want = fmt.Sprintf("errno %d name %q", errno.EINVAL, "\x01\x00")
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("native bind (-), keeper (+):\n%s", diff)
			}
		})
	}
}

// nativeBind runs bind in a process of its own that is chrooted into root.
func nativeBind(t *testing.T, root string, typ int, sa []byte) string {
	t.Helper()
	if p, ok := sockaddrPath(sa); ok {
		if err := makeFoldersBelow(root, p); err != nil {
			t.Fatal(err)
		}
	}
	type result struct {
		s   string
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends here, its root with it
		s, err := func() (string, error) {
			fd := socket(t, typ)
			defer unix.Close(fd)
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return "", err
			}
			if err := unix.Chroot(root); err != nil {
				return "", err
			}
			if err := unix.Chdir("/"); err != nil {
				return "", err
			}
			var e unix.Errno
			errors.As(rawBind(fd, sa), &e)
			return fmt.Sprintf("errno %d name %q", uint(e), rawName(t, unix.SYS_GETSOCKNAME, fd)), nil
		}()
		done <- result{s, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.s
}

func makeFoldersBelow(root, name string) error {
	at := "/"
	elems := strings.Split(strings.TrimRight(name, "/"), "/")
	for _, e := range elems[:len(elems)-1] {
		at = filepath.Join(at, e)
		if err := os.MkdirAll(filepath.Join(root, at), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// TestPeers lets two named sockets talk and asks each what it is told of names:
// the owner of a listener, who connects through the handle, and who accepts.
func TestPeers(t *testing.T) {
	asNobody(t)
	k := start(t)
	server, client := sockaddr("/mnt/c/tmp/server.sock"), sockaddr("client.sock\x00")
	stored := append(sockaddr("/mnt/c/tmp/server.sock"), 0)

	l := socket(t, unix.SOCK_STREAM)
	defer unix.Close(l)
	// unix_bind of the kernel makes the file with this mode.
	if err := unix.Fchmod(l, 0o600); err != nil {
		t.Fatal(err)
	}
	name := bindName(t, k, l, server)
	defer name.Close()
	if err := unix.Listen(l, 4); err != nil {
		t.Fatal(err)
	}
	// Whoever is handed the name may connect, whatever the caller's umask and the
	// socket's own mode.
	var st unix.Stat_t
	if err := unix.Stat(pathOf(name), &st); err != nil || st.Mode != unix.S_IFSOCK|0o777 {
		t.Errorf("inode of the name has mode %#o, %v", st.Mode, err)
	}
	for _, named := range []bool{true, false} {
		c := socket(t, unix.SOCK_STREAM)
		want := sockaddr("")
		if named {
			n := bindName(t, k, c, client)
			defer n.Close()
			want = client
		}
		if err := unix.Connect(c, &unix.SockaddrUnix{Name: pathOf(name)}); err != nil {
			t.Fatal(err)
		}
		var buf [256]byte
		n := uint32(len(buf))
		a, _, e := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(l), uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&n)), unix.SOCK_CLOEXEC, 0, 0)
		if e != 0 {
			t.Fatal(e)
		}
		for _, c := range []struct {
			what      string
			got, want []byte
		}{
			{"accept", buf[:n], want},
			{"getpeername of the accepted", rawName(t, unix.SYS_GETPEERNAME, int(a)), want},
			{"getsockname of the accepted", rawName(t, unix.SYS_GETSOCKNAME, int(a)), stored},
			{"getsockname of the listener", rawName(t, unix.SYS_GETSOCKNAME, l), stored},
			{"getpeername of the client", rawName(t, unix.SYS_GETPEERNAME, c), stored},
			{"getsockname of the client", rawName(t, unix.SYS_GETSOCKNAME, c), want},
		} {
			if !bytes.Equal(c.got, c.want) {
				t.Errorf("named=%v: %s = %q, want %q", named, c.what, c.got, c.want)
			}
		}
		passRights(t, c, int(a))
		cred, err := unix.GetsockoptUcred(int(a), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil || int(cred.Pid) != os.Getpid() || int(cred.Uid) != os.Geteuid() {
			t.Errorf("SO_PEERCRED of the accepted = %+v, %v; want this process", cred, err)
		}
		unix.Close(int(a))
		unix.Close(c)
	}
	name.Close()
}

// passRights passes a descriptor from one connected socket to the other.
func passRights(t *testing.T, from, to int) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := unix.Sendmsg(from, []byte("x"), unix.UnixRights(int(w.Fd())), nil, 0); err != nil {
		t.Fatal(err)
	}
	w.Close()
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(to, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		t.Fatalf("control messages %v, %v", msgs, err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "passed")
	if _, err := f.WriteString("through"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if got, err := io.ReadAll(r); err != nil || string(got) != "through" {
		t.Errorf("through the passed descriptor: %q, %v", got, err)
	}
}
