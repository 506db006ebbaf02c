package link

import (
	"testing"
	"time"
)

// A curious sink looks how much the stream has brought it by now, as a consumer may
// that has its last byte and ends the stream.
type curious struct {
	*moody
	s    *Stream
	seen chan uint64
}

func (c *curious) TryWrite(p []byte) (int, error) {
	n, _ := c.s.Bytes()
	c.seen <- n
	return len(p), nil
}

// TestBytesInTime counts what a sink gets before the sink has it.
func TestBytesInTime(t *testing.T) {
	a, b := streams(t, netPipe, Config{})
	c := &curious{moody: newMoody(t, 1), s: b, seen: make(chan uint64, 1)}
	b.Deliver(c)
	if _, err := a.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if n := <-c.seen; n != 5 {
		t.Errorf("%d bytes when the sink has 5", n)
	}
}

// A weighing sink answers for what it was given when it is told to.
type weighing struct {
	*moody
	given, answer chan struct{}
}

func (c *weighing) TryWrite([]byte) (int, error) { return 0, nil }

func (c *weighing) Write(p []byte) (int, error) {
	c.given <- struct{}{}
	<-c.answer
	return len(p), nil
}

// TestUnread doesn't count what the sink is being given as unread: a program that
// has read it may have closed its socket before the sink's write is back.
func TestUnread(t *testing.T) {
	a, b := streams(t, netPipe, Config{})
	if _, err := a.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	c := &weighing{newMoody(t, 1), make(chan struct{}), make(chan struct{})}
	b.Deliver(c)
	<-c.given
	n := make(chan int)
	go func() { n <- b.Unread() }()
	select {
	case n := <-n:
		t.Errorf("%d bytes unread that the sink has and hasn't answered for", n)
		close(c.answer)
		return
	case <-time.After(20 * time.Millisecond):
	}
	close(c.answer)
	if n := <-n; n != 0 {
		t.Errorf("%d bytes unread that the sink has taken", n)
	}
}
