package wait

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// after writes a byte to a new pipe after d, and gives the end to read.
func after(t *testing.T, d time.Duration) int {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(d, func() { _, _ = unix.Write(p[1], []byte{1}) })
	t.Cleanup(func() {
		timer.Stop()
		_ = unix.Close(p[0])
		_ = unix.Close(p[1])
	})
	return p[0]
}

// waits are shorter and longer than a wait keeps its P.
var waits = []time.Duration{0, moment / 4, 30 * moment}

func TestPoll(t *testing.T) {
	want := max(runtime.GOMAXPROCS(0), 2) + waiters - 1
	if keepers.Load() > 0 { // by another test, or the run before
		want = max(spared.procs, 2) + waiters - 1
	}
	for _, spared := range []bool{false, true} {
		if spared {
			for range waiters + 1 {
				Spare()
			}
		}
		for _, d := range waits {
			start := time.Now()
			fds := []unix.PollFd{{Fd: int32(after(t, time.Hour)), Events: unix.POLLIN}, {Fd: int32(after(t, d)), Events: unix.POLLIN}}
			if err := Poll(fds); err != nil {
				t.Fatal(err)
			}
			if got := time.Since(start); got < d || fds[0].Revents != 0 || fds[1].Revents != unix.POLLIN {
				t.Errorf("events %#x and %#x after %v, want the second's alone after %v", fds[0].Revents, fds[1].Revents, got, d)
			}
		}
	}
	if got := runtime.GOMAXPROCS(0); got != want {
		t.Errorf("%d processors after Spare, want %d", got, want)
	}
}

func TestEpoll(t *testing.T) {
	Spare()
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ep)
	for _, d := range waits {
		start := time.Now()
		fd := after(t, d)
		if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(fd)}); err != nil {
			t.Fatal(err)
		}
		events := make([]unix.EpollEvent, 4)
		n, err := Epoll(ep, events)
		if got := time.Since(start); n != 1 || err != nil || int(events[0].Fd) != fd || got < d {
			t.Errorf("%d events, error %v, of %d after %v, want one of %d after %v", n, err, events[0].Fd, got, fd, d)
		}
	}
}

// TestStopTheWorld has the collector run while a thread keeps its P: a signal
// must end that wait, not its bound.
func TestStopTheWorld(t *testing.T) {
	Spare()
	done := make(chan struct{})
	fds := []unix.PollFd{{Fd: int32(after(t, 300*time.Millisecond)), Events: unix.POLLIN}}
	go func() {
		defer close(done)
		if err := Poll(fds); err != nil {
			t.Error(err)
		}
	}()
	for {
		select {
		case <-done:
			return
		default:
			start := time.Now()
			runtime.GC()
			if d := time.Since(start); d > 5*time.Second {
				t.Fatalf("the collector took %v", d)
			}
		}
	}
}

func TestCalls(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	b := make([]byte, 8)
	if n, err := Read(fds[0], b); n != 0 || err != unix.EAGAIN {
		t.Errorf("read of nothing: %d, %v, want %v", n, err, unix.EAGAIN)
	}
	if n, err := Write(fds[1], []byte("ab")); n != 2 || err != nil {
		t.Errorf("write: %d, %v", n, err)
	}
	if n, err := Send(fds[1], []byte("c")); n != 1 || err != nil {
		t.Errorf("send: %d, %v", n, err)
	}
	if n, err := Read(fds[0], b); n != 3 || err != nil || string(b[:n]) != "abc" {
		t.Errorf("read %q, %v, want abc", b[:max(n, 0)], err)
	}
	_ = unix.Close(fds[1])
	if n, err := Read(fds[0], b); n != 0 || err != nil {
		t.Errorf("read at the end: %d, %v", n, err)
	}
	if n, err := Send(fds[0], b); n != 0 || err != unix.EPIPE {
		t.Errorf("send to nobody: %d, %v, want %v", n, err, unix.EPIPE)
	}
}

// TestKeep wants no more waits to keep their P than were told of, and each to give it
// back.
func TestKeep(t *testing.T) {
	for range waiters + 1 {
		Spare()
	}
	for range 3 {
		for i := range waiters {
			if !keep() {
				t.Fatalf("wait %d may not keep its P, want %d that may", i, waiters)
			}
		}
		if keep() {
			t.Fatalf("%d waits may, want %d", waiters+1, waiters)
		}
		keeping.Add(-waiters)
	}
	_ = Moment([]unix.PollFd{{Fd: int32(after(t, 0)), Events: unix.POLLIN}})
	_ = Poll([]unix.PollFd{{Fd: int32(after(t, 0)), Events: unix.POLLIN}})
	if n := keeping.Load(); n != 0 {
		t.Errorf("%d waits keep their P after all have ended", n)
	}
}
