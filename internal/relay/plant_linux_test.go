package relay

import (
	"errors"
	"testing"
	"time"

	"drvsock/internal/errno"

	"golang.org/x/sys/unix"
)

// planter is an aborter that can do it beforehand.
type planter struct{ aborter }

func (p planter) Plant() bool {
	p.Abort()
	return true
}

// TestFailureAfterStop has the far program read no more, which shuts a direction of
// the near one's socket down, before the rest of its answer is lost: that still reads
// as a failure. If nothing is lost, it reads as an end.
func TestFailureAfterStop(t *testing.T) {
	for _, lost := range []bool{true, false} {
		wait := 10 * time.Millisecond
		for !failAfterStop(t, lost, wait) {
			if wait *= 2; wait > 5*time.Second {
				t.Fatal("writes to who reads no more go on")
			}
		}
	}
}

// failAfterStop says false if the stop had not come about within wait. No byte may be
// under way then: those that go nowhere are a failure of their own.
func failAfterStop(t *testing.T, lost bool, wait time.Duration) bool {
	g, a, streams := pipes(t)
	near, _, err := g.Open(t.Context(), connect)
	if err != nil {
		t.Fatal(err)
	}
	far := <-streams
	fd, c := connected(t)
	done := make(chan error, 1)
	go func() { done <- join(planter{aborter{c, fd}}, near, true) }()
	defer func() {
		_ = g.Close()
		_ = a.Close()
		<-done
		_ = unix.Close(fd)
	}()
	_ = far.CloseRead(errno.Errorf(errno.EPIPE, errno.LayerUnknown, "closed by the program"))
	time.Sleep(wait)
	if err := unix.Sendto(fd, []byte("x"), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil); err != unix.EPIPE {
		return false
	}
	if _, err := far.Write([]byte("rest")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	if n, _, err := unix.Recvfrom(fd, b, 0); string(b[:max(n, 0)]) != "rest" {
		t.Fatalf("read %q, %v", b[:max(n, 0)], err)
	}
	var want error
	if lost {
		want = unix.ECONNRESET
		_ = g.Close()
	} else if err := far.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, _, err := unix.Recvfrom(fd, b, 0); n > 0 || !errors.Is(err, want) {
		t.Errorf("lost %v: the rest reads as %d, %v, want %v", lost, n, err, want)
	}
	return true
}
