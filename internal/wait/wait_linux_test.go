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
	before := runtime.GOMAXPROCS(0)
	for _, spared := range []bool{false, true} {
		if spared {
			Spare()
			Spare()
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
	if got, want := runtime.GOMAXPROCS(0), max(before, 2)+waiters; got != want {
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
