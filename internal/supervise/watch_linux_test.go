package supervise

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestWatch closes sockets in different ways and expects to hear of each once,
// and not before its last descriptor is closed.
func TestWatch(t *testing.T) {
	w, err := newWatch()
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	gone := make(chan uint64, 16)
	add := func(fd int, id uint64) {
		t.Helper()
		if err := w.add(fd, id, func() { gone <- id }); err != nil {
			t.Fatal(err)
		}
	}
	sock := func() int {
		t.Helper()
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	quiet := func() {
		t.Helper()
		select {
		case id := <-gone:
			t.Fatalf("heard of %d, which is open", id)
		case <-time.After(4 * watchPause):
		}
	}
	hear := func(want uint64) {
		t.Helper()
		select {
		case id := <-gone:
			if id != want {
				t.Fatalf("heard of %d, want %d", id, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("nothing heard of %d", want)
		}
	}
	const big = 1<<40 | 5
	a := sock()
	dup, err := unix.FcntlInt(uintptr(a), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	add(dup, big)
	_ = unix.Close(dup)
	quiet() // the other descriptor keeps it open
	b := sock()
	add(b, 2)
	_ = unix.Close(a)
	hear(big)
	// One that is only on its way in a message is open too.
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(b), nil, 0); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(b)
	quiet()
	_ = unix.Close(pair[0])
	_ = unix.Close(pair[1])
	hear(2)
	// After everything was closed, watching begins anew.
	c := sock()
	add(c, 3)
	_ = unix.Close(c)
	hear(3)
}

func TestWatched(t *testing.T) {
	const fdinfo = "pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t2\n" +
		"tfd:       12 events:       19 data:     100000000000005  pos:0 ino:23b sdev:8\n" +
		"tfd:        5 events:       19 data:                2  pos:0 ino:23c sdev:8\n"
	got := watched([]byte(fdinfo))
	if len(got) != 2 || !got[2] || !got[0x100000000000005] {
		t.Errorf("got %v, want 2 and 0x100000000000005", got)
	}
	if got := watched([]byte("data:\ndata: zz\n")); len(got) != 0 {
		t.Errorf("got %v from lines without a number", got)
	}
}

func TestSunPath(t *testing.T) {
	tests := []struct{ addr, want string }{
		{"\x01\x00x.sock\x00", "x.sock"},
		{"\x01\x00x.sock", "x.sock"},
		{"\x01\x00a\x00b", "a"},
	}
	for _, tt := range tests {
		if got := string(sunPath([]byte(tt.addr))); got != tt.want {
			t.Errorf("sunPath(%q): got %q, want %q", tt.addr, got, tt.want)
		}
	}
}
