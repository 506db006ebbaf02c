package relay

import (
	"bytes"
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// waiting makes a socket on a link and has it wait as wait says, in f.
func waiting(t *testing.T, f func(s *socket), armed uint32) (program int, s *socket, over chan struct{}) {
	t.Helper()
	g, a, streams := pipes(t)
	t.Cleanup(func() {
		_ = g.Close()
		_ = a.Close()
	})
	stream, _, err := g.Open(t.Context(), connect)
	if err != nil {
		t.Fatal(err)
	}
	<-streams
	program, c := connected(t)
	s = new(socket)
	if err := s.init(c, stream, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	over = make(chan struct{})
	go func() {
		defer close(over)
		f(s)
	}()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		got := s.armed
		s.mu.Unlock()
		if got == armed {
			return program, s, over
		}
		if time.Now().After(end) {
			t.Fatalf("waiting for events %#x, want %#x", got, armed)
		}
	}
}

// TestCloseWhileWriting closes a socket that takes no more while what is queued
// waits for room: the goroutine of the queue must end.
func TestCloseWhileWriting(t *testing.T) {
	var err error
	program, s, over := waiting(t, func(s *socket) { _, err = s.write(bytes.Repeat([]byte("x"), 4<<20)) }, unix.EPOLLOUT)
	defer unix.Close(program)
	s.close()
	select {
	case <-over:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v, want %v", err, net.ErrClosed)
		}
	case <-time.After(5 * time.Second):
		t.Error("a write outlives its socket")
	}
}

// TestEventOfBefore gives a socket the hang-up of another one that had its
// number: it must not end.
func TestEventOfBefore(t *testing.T) {
	done := make(chan struct{})
	gone := false
	program, s, over := waiting(t, func(s *socket) { gone = s.waitHangup(done) }, unix.EPOLLRDHUP)
	if s.ready(unix.EPOLLHUP|unix.EPOLLIN, false) {
		t.Error("an event of before ended the wait")
	}
	select {
	case <-over:
		t.Fatal("the wait ended")
	case <-time.After(20 * time.Millisecond):
	}
	_ = unix.Close(program)
	select {
	case <-over:
		if !gone {
			t.Error("no hang-up was seen")
		}
	case <-time.After(5 * time.Second):
		t.Error("the program's close was not seen")
	}
}
