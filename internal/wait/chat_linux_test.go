package wait

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestChat has answers come at once until the wait stays awake, and then not at all
// for a while: it must not stay awake for that, nor miss what comes at last.
func TestChat(t *testing.T) {
	Spare()
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ep)
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		t.Fatal(err)
	}
	var c Chat
	events := make([]unix.EpollEvent, 4)
	next := func() {
		t.Helper()
		if n, err := c.Epoll(ep, events); n != 1 || err != nil || int(events[0].Fd) != fd {
			t.Fatalf("%d events, %v, of %d, want one of %d", n, err, events[0].Fd, fd)
		}
		b := make([]byte, 8)
		if n, err := unix.Read(fd, b); n != 8 || err != nil {
			t.Fatalf("read: %d, %v", n, err)
		}
	}
	word := func() {
		if _, err := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			t.Error(err)
		}
	}
	awake := func() bool { return c.streak >= promptStreak && time.Now().After(c.notBefore) }
	for i := 0; !awake(); i++ {
		if i == 1000 {
			t.Fatalf("not awake after %d words that were there at once: %+v", i, c)
		}
		word()
		next()
	}
	word()
	next()
	if !awake() {
		t.Errorf("a word that comes at once ends it: %+v", c)
	}
	// One late word after many does not end it.
	forgave := false
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		for range forgiven + promptStreak {
			word()
			next()
		}
		if c.met < forgiven {
			time.Sleep(time.Millisecond) // the processor was somebody else's
			continue
		}
		timer := time.AfterFunc(2*promptWithin, word)
		next()
		timer.Stop()
		if forgave = awake(); forgave {
			break
		}
	}
	if !forgave {
		t.Errorf("one late word ends it: %+v", c)
	}
	// Pauses do: two, unless the thread stands still for as long as one of them.
	const pause = 30 * time.Millisecond
	for i := 0; awake() || i < 2; i++ {
		if i == 50 {
			t.Fatalf("awake after %d pauses: %+v", i, c)
		}
		start := time.Now()
		timer := time.AfterFunc(pause, word)
		next()
		timer.Stop()
		if d := time.Since(start); d < pause {
			t.Errorf("after %v, for a word after %v", d, pause)
		}
	}
	for end := time.Now().Add(5 * time.Second); !awake() && time.Now().Before(end); {
		word()
		next()
	}
	if !awake() {
		t.Errorf("never awake again: %+v", c)
	}
	for range 2 {
		c.Pause()
	}
	if awake() {
		t.Errorf("awake after what was no conversation: %+v", c)
	}
}
