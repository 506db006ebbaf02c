package mount

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSecondConnect has one thread connect twice, the second time before we have
// accepted the first: what it is told is the host's answer to the second.
func TestSecondConnect(t *testing.T) {
	beneath, at, _, _ := mounted(t, nil)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	socket := func() int {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	l := socket()
	defer unix.Close(l)
	if err := unix.Bind(l, &unix.SockaddrUnix{Name: beneath + "/h"}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(l, 0); err != nil { // which has room for one, unix(7)
		t.Fatal(err)
	}
	for i := range 200 {
		a, b := socket(), socket()
		if err := unix.Connect(a, &unix.SockaddrUnix{Name: at + "/h"}); err != nil {
			t.Fatalf("round %d: connect where there is room: %v", i, err)
		}
		if err := unix.Connect(b, &unix.SockaddrUnix{Name: at + "/h"}); err != unix.EAGAIN {
			t.Fatalf("round %d: connect where there is none: %v, want %v", i, err, unix.EAGAIN)
		}
		s, _, err := unix.Accept(l)
		if err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		_, _, _ = unix.Close(s), unix.Close(a), unix.Close(b)
	}
}
