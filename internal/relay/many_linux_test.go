package relay

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func descriptors(tb testing.TB) int {
	tb.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(d)
}

// TestMany relays many connections over one link at once, both ways, and
// counts descriptors before and after.
func TestMany(t *testing.T) {
	const n, size = 200, 100_000
	_ = unix.Close(warm(t)) // see TestStress
	before := descriptors(t)
	g, a, streams := pipes(t)
	var relays, programs sync.WaitGroup
	for i := range n {
		s1, _, err := g.Open(t.Context(), connect)
		if err != nil {
			t.Fatal(err)
		}
		s2 := <-streams
		fa, ca := connected(t)
		fb, cb := connected(t)
		relays.Go(func() {
			if err := Join(ca, s1); err != nil {
				t.Errorf("relay: %v", err)
			}
		})
		relays.Go(func() {
			if err := Join(cb, s2); err != nil {
				t.Errorf("relay: %v", err)
			}
		})
		x, y := os.NewFile(uintptr(fa), "a"), os.NewFile(uintptr(fb), "b")
		data := make([]byte, size)
		rng := rand.New(rand.NewPCG(1, uint64(i)))
		for j := range data {
			data[j] = byte(rng.Uint32())
		}
		var one sync.WaitGroup
		for _, p := range [][2]*os.File{{x, y}, {y, x}} {
			one.Go(func() {
				if _, err := p[0].Write(data); err != nil {
					t.Errorf("write: %v", err)
				}
				raw, err := p[0].SyscallConn()
				if err == nil {
					err = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
				}
				if err != nil {
					t.Errorf("shutdown: %v", err)
				}
			})
			one.Go(func() {
				got, err := io.ReadAll(p[1])
				if err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
					t.Errorf("got %d bytes, %v, want %d and their hash", len(got), err, len(data))
				}
			})
		}
		programs.Go(func() {
			one.Wait()
			_ = x.Close()
			_ = y.Close()
		})
	}
	done := make(chan struct{})
	go func() {
		programs.Wait()
		relays.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(60 * time.Second):
		t.Fatal("connections hang")
	}
	if err := g.Err(); err != nil {
		t.Errorf("link ended: %v", err)
	}
	_ = g.Close()
	_ = a.Close()
	<-a.Done()
	// The reader of each link closes last.
	deadline := time.Now().Add(5 * time.Second)
	for descriptors(t) > before && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}
