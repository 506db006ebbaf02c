package relay

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"drvsock/internal/link"

	"golang.org/x/sys/unix"
)

// nearOf counts the sockets that links' readers serve.
func nearOf() (near int) {
	reactors.mu.Lock()
	defer reactors.mu.Unlock()
	for _, r := range reactors.of {
		r.mu.Lock()
		for _, s := range r.sockets {
			s.mu.Lock()
			if s.isNear && s.armed != 0 {
				near++
			}
			s.mu.Unlock()
		}
		r.mu.Unlock()
	}
	return near
}

func exchange(t *testing.T, from, to *os.File, data []byte) {
	t.Helper()
	go func() { _, _ = from.Write(data) }()
	got := make([]byte, len(data))
	if n, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d of %d bytes, %v", n, len(data), err)
	}
}

// TestNear wants conversations at the links' readers, and much data and the
// end of a conversation elsewhere.
func TestNear(t *testing.T) {
	r := relayed(t)
	defer r.stop()
	a, b := os.NewFile(uintptr(r.a.fd), "a"), os.NewFile(uintptr(r.b.fd), "b")
	defer a.Close()
	defer b.Close()
	// What is near is seen only when the threads are done with the last bytes.
	want := func(when string, want int) {
		t.Helper()
		for end := time.Now().Add(5 * time.Second); nearOf() != want; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: %d sockets are near, want %d", when, nearOf(), want)
			}
		}
	}
	word := []byte("word")
	settle() // both relays wait
	want("at first", 0)
	exchange(t, a, b, word)
	want("after a question", 1)
	exchange(t, b, a, word)
	want("after its answer", 2)
	exchange(t, a, b, make([]byte, 1<<20))
	exchange(t, b, a, make([]byte, 1<<20))
	want("after much data", 0)
	for range 2 * 64 { // the readers have calmed down, and the last reads were small
		exchange(t, a, b, word)
		exchange(t, b, a, word)
	}
	want("after another conversation", 2)
	_ = unix.Shutdown(r.a.fd, unix.SHUT_WR)
	want("after the end of one direction", 1)
	exchange(t, b, a, word)
}

// TestNearAndFar has conversations with messages of all sizes beside each
// other, so that sockets go back and forth and find the link taken or full.
func TestNearAndFar(t *testing.T) {
	g, l, streams := pipes(t)
	var relays, programs sync.WaitGroup
	for i := range 8 {
		s1, _, err := g.Open(t.Context(), connect)
		if err != nil {
			t.Fatal(err)
		}
		fa, ca := connected(t)
		fb, cb := connected(t)
		for _, end := range []struct {
			c Conn
			s *link.Stream
		}{{ca, s1}, {cb, <-streams}} {
			relays.Go(func() {
				if err := Join(end.c, end.s); err != nil {
					t.Errorf("relay: %v", err)
				}
			})
		}
		a, b := os.NewFile(uintptr(fa), "a"), os.NewFile(uintptr(fb), "b")
		programs.Go(func() {
			defer a.Close()
			_, _ = io.Copy(a, a) // echo
		})
		programs.Go(func() {
			defer b.Close()
			rng := rand.New(rand.NewPCG(7, uint64(i)))
			data, got := make([]byte, 1<<18), make([]byte, 1<<18)
			_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(data)
			for range 300 {
				n := 1 + rng.IntN(64)
				switch rng.IntN(20) {
				case 0:
					n = 1 + rng.IntN(len(data))
				case 1, 2:
					n = 1 + rng.IntN(2*small)
				}
				from := rng.IntN(len(data) - n + 1)
				go func() { _, _ = b.Write(data[from:][:n]) }()
				if m, err := io.ReadFull(b, got[:n]); err != nil || !bytes.Equal(got[:n], data[from:][:n]) {
					t.Errorf("%d of %d bytes came back, %v", m, n, err)
					return
				}
			}
		})
	}
	over := make(chan struct{})
	go func() {
		programs.Wait()
		relays.Wait()
		close(over)
	}()
	select {
	case <-over:
	case <-time.After(60 * time.Second):
		t.Error("connections hang")
	}
	_ = g.Close()
	_ = l.Close()
	<-over
}
