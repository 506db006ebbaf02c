package link

import (
	"bytes"
	"io"
	"testing"
	"time"
)

// TestTrySend sends without waiting: not while another has the turn, and what
// doesn't fit into the pipe comes later, whole and before what is sent next.
func TestTrySend(t *testing.T) {
	const size = 20_000
	a, b := streams(t, osPipes, Config{Window: 8 << 20})
	try := func(fill byte) bool {
		t.Helper()
		buf := NewBuffer()
		copy(buf.Payload(), bytes.Repeat([]byte{fill}, size))
		done, err := a.TrySend(buf, size)
		if err != nil {
			t.Fatal(err)
		}
		if !done {
			buf.Free()
		}
		return done
	}
	o := &a.l.out
	if err := o.acquire(false, nil); err != nil {
		t.Fatal(err)
	}
	credit := a.w.left
	if try(0) || a.w.left != credit || a.w.sending {
		t.Errorf("sent out of turn, or credit %d instead of %d, or still sending", a.w.left, credit)
	}
	o.release()

	// The other side's reader stands still, so that the pipe fills up.
	b.mu.Lock()
	n := byte(0)
	for ; n < 100 && try(n); n++ {
		time.Sleep(time.Millisecond)
	}
	b.mu.Unlock()
	if n < 2 || n == 100 {
		t.Fatalf("%d frames fit into the pipe", n)
	}
	if _, err := a.Write([]byte{n}); err != nil {
		t.Fatal(err)
	}
	_ = a.CloseWrite()
	got, err := io.ReadAll(b)
	var want []byte
	for i := range n {
		want = append(want, bytes.Repeat([]byte{i}, size)...)
	}
	if want = append(want, n); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v, want %d and the same", len(got), err, len(want))
	}
}
