//go:build linux

package lookup

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestAsPeer asks the kernel whom a listener sees, and who we are afterwards.
func TestAsPeer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	file := filepath.Join(t.TempDir(), "s")
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(l)
	addr := &unix.SockaddrUnix{Name: file}
	for _, err := range []error{unix.Bind(l, addr), os.Chmod(file, 0o777), unix.Listen(l, 4)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	// The folders above are root's alone.
	node, err := unix.Open(file, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(node)
	addr = &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(node)}
	before := own()
	for _, task := range []Task{
		{EUID: 44001, EGID: 44002, Groups: []uint32{44003, 44004}},
		{EUID: 44001, EGID: 44001},
		{EGID: 44001, Groups: before.Groups},
		{Groups: []uint32{44003}},
	} {
		c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := task.AsPeer(func() error { return unix.Connect(c, addr) }); err != nil {
			t.Fatal(err)
		}
		a, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		cred, err := unix.GetsockoptUcred(a, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil || cred.Uid != task.EUID || cred.Gid != task.EGID {
			t.Errorf("%+v: the listener sees %+v, %v", task, cred, err)
		}
		if got := peerGroups(t, a); !cmp.Equal(got, task.Groups) && len(got)+len(task.Groups) > 0 {
			t.Errorf("%+v: the listener sees the groups %v", task, got)
		}
		_ = unix.Close(a)
		_ = unix.Close(c)
	}
	// Every thread that there is now, also those that fn ran on.
	threads, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(threads) == 0 {
		t.Fatal(threads, err)
	}
	for _, thread := range threads {
		b, err := os.ReadFile(thread)
		if err != nil {
			continue
		}
		var after Task
		if err := after.parseStatus(b); err != nil {
			t.Fatal(err)
		}
		after.Name, after.TGID = before.Name, before.TGID
		if d := cmp.Diff(before, after); d != "" {
			t.Errorf("a thread has other credentials than before (-):\n%s", d)
		}
	}
}

func peerGroups(t *testing.T, fd int) []uint32 {
	t.Helper()
	buf := make([]uint32, 64)
	size := uint32(4 * len(buf))
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
	if e != 0 {
		t.Fatal(e)
	}
	return buf[:size/4]
}
