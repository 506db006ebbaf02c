package link

import "testing"

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
