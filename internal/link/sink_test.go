package link

import (
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"drvsock/internal/errno"

	"pgregory.net/rapid"
)

// A moody sink takes a random part of what is offered, and checks that the
// calls are as Sink says.
type moody struct {
	mu    sync.Mutex
	rng   *rand.Rand
	sum   []byte
	ended chan error
	over  bool
	t     testing.TB
}

func newMoody(t testing.TB, seed uint64) *moody {
	return &moody{rng: rand.New(rand.NewPCG(seed, 1)), ended: make(chan error, 2), t: t}
}

func (m *moody) TryWrite(p []byte) (int, error) { return m.take(p[:m.rng.IntN(len(p)+1)]) }

func (m *moody) Write(p []byte) (int, error) {
	if m.rng.IntN(4) == 0 {
		time.Sleep(time.Microsecond)
	}
	return m.take(p)
}

func (m *moody) take(p []byte) (int, error) {
	if !m.mu.TryLock() {
		m.t.Error("the sink is called by two goroutines at once")
		return 0, errno.EIO
	}
	defer m.mu.Unlock()
	if m.over {
		m.t.Error("bytes after the end")
	}
	m.sum = append(m.sum, p...)
	return len(p), nil
}

func (m *moody) CloseWrite() error {
	m.over = true
	m.ended <- nil
	return nil
}

func (m *moody) Fail(err error) { m.ended <- err }

// TestWindows sends both ways, over windows, pieces and consumers of any kind,
// and checks that every byte comes once and in order. That no window is ever
// exceeded is checked by the receiver, which would end the link.
func TestWindows(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		gw := rapid.Uint32Range(1, 3000).Draw(rt, "guest's window")
		aw := rapid.Uint32Range(1, 3000).Draw(rt, "agent's window")
		n := rapid.IntRange(1, 4).Draw(rt, "streams")
		size := rapid.IntRange(0, 8_000).Draw(rt, "bytes")
		piece := rapid.IntRange(1, 5000).Draw(rt, "piece")
		seed := rapid.Uint64().Draw(rt, "seed")
		sinks := rapid.Bool().Draw(rt, "sinks")

		h, c := acceptor()
		g, a := links(t, osPipes, Config{Window: gw}, Config{Window: aw, Handler: h})
		defer a.Close()
		defer g.Close()
		var wg sync.WaitGroup
		for i := range n {
			x := open(t, g)
			y := <-c
			for j, p := range [][2]*Stream{{x, y}, {y, x}} {
				data := make([]byte, size)
				rng := rand.New(rand.NewPCG(seed, uint64(i*2+j)))
				for k := range data {
					data[k] = byte(rng.Uint32())
				}
				wg.Go(func() {
					for d := data; len(d) > 0; {
						k := min(len(d), 1+rng.IntN(piece))
						if _, err := p[0].Write(d[:k]); err != nil {
							t.Errorf("write: %v", err)
							return
						}
						d = d[k:]
					}
					_ = p[0].CloseWrite()
				})
				wg.Go(func() {
					var got []byte
					var err error
					if sinks {
						m := newMoody(t, seed)
						p[1].Deliver(m)
						err = <-m.ended
						got = m.sum
					} else {
						got, err = io.ReadAll(p[1])
					}
					if err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
						t.Errorf("got %d bytes, %v, want %d and their hash", len(got), err, len(data))
					}
				})
			}
		}
		within(t, 30*time.Second, "the traffic", wg.Wait)
		if g.Err() != nil || a.Err() != nil {
			t.Errorf("links ended: %v, %v", g.Err(), a.Err())
		}
	})
}

func TestOneByteTransport(t *testing.T) {
	for _, tr := range []transport{byteByByte, delaying} {
		t.Run(tr.name, func(t *testing.T) {
			a, b := streams(t, tr, Config{Window: 7000})
			data := make([]byte, 50_000)
			for i := range data {
				data[i] = byte(i * i >> 3)
			}
			go func() {
				_, _ = a.Write(data)
				_ = a.CloseWrite()
			}()
			m := newMoody(t, 1)
			b.Deliver(m)
			within(t, 30*time.Second, "the bytes", func() {
				if err := <-m.ended; err != nil || sha256.Sum256(m.sum) != sha256.Sum256(data) {
					t.Errorf("got %d bytes, %v", len(m.sum), err)
				}
			})
		})
	}
}

// TestDeliverLate delivers what was queued, or ended, before there was a sink.
func TestDeliverLate(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(s *Stream)
		want errno.Errno
		sum  string // "" if all must be over before somebody takes it
	}{
		{"queued and ended", func(s *Stream) { _ = s.CloseWrite() }, 0, "early"},
		{"queued and ended badly", func(s *Stream) { _ = s.EndWith(errno.ECONNRESET) }, errno.ECONNRESET, "early"},
		{"reset", func(s *Stream) { s.Reset(errno.EPERM) }, errno.EPERM, ""},
		{"link lost", func(s *Stream) { _ = s.l.rw.Close() }, errno.ECONNRESET, ""},
		{"ended and link lost", func(s *Stream) { _ = s.CloseWrite(); _ = s.l.Close() }, 0, "early"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := streams(t, osPipes, Config{})
			_, _ = io.WriteString(a, "early")
			tt.end(a)
			if tt.sum == "" {
				within(t, 5*time.Second, "the end", func() { <-b.Done() })
			} else {
				time.Sleep(20 * time.Millisecond)
			}
			m := newMoody(t, 1)
			b.Deliver(m)
			within(t, 5*time.Second, "the end", func() {
				if err := <-m.ended; errno.Of(err) != tt.want || string(m.sum) != tt.sum {
					t.Errorf("got %q, %v, want %q, %v", m.sum, err, tt.sum, tt.want)
				}
			})
		})
	}
}

// A broken sink takes nothing.
type broken struct{ *moody }

func (broken) TryWrite([]byte) (int, error) { return 0, errno.EPIPE }

func TestBrokenSinkStopsThePeer(t *testing.T) {
	a, b := streams(t, osPipes, Config{Window: 1000})
	b.Deliver(broken{newMoody(t, 1)})
	within(t, 5*time.Second, "writing", func() {
		if _, err := a.Write(make([]byte, 1<<20)); errno.Of(err) != errno.EPIPE {
			t.Errorf("write: %v, want EPIPE", err)
		}
	})
	if _, err := b.Write([]byte("x")); err != nil {
		t.Errorf("write the other way: %v", err)
	}
}

func TestSendBeyondCredit(t *testing.T) {
	a, _ := streams(t, netPipe, Config{Window: 10})
	if n, err := a.Credit(); n != 10 || err != nil {
		t.Fatalf("credit %d, %v, want 10", n, err)
	}
	if err := a.Send(NewBuffer(), 11); errno.Of(err) != errno.EINVAL {
		t.Errorf("send: %v, want EINVAL", err)
	}
	if err := a.Send(NewBuffer(), 10); err != nil {
		t.Errorf("send: %v", err)
	}
	_ = a.SetWriteDeadline(time.Now().Add(time.Millisecond))
	if _, err := a.Credit(); !errors.Is(err, errDeadline) {
		t.Errorf("credit: %v, want the deadline", err)
	}
}

// TestTryCreditOr wants the callback when the peer grants more, once, and never where
// nothing may be sent any more.
func TestTryCreditOr(t *testing.T) {
	a, b := streams(t, netPipe, Config{Window: 10})
	fed := make(chan struct{}, 10)
	credited := func() { fed <- struct{}{} }
	if n, waits := a.TryCreditOr(credited); n != 10 || waits {
		t.Fatalf("credit %d, waits %v, want 10 at once", n, waits)
	}
	if err := a.Send(NewBuffer(), 10); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second takes the first one's place
		if n, waits := a.TryCreditOr(credited); n != 0 || !waits {
			t.Fatalf("credit %d, waits %v, want to wait", n, waits)
		}
	}
	select {
	case <-fed:
		t.Fatal("called before anything was granted")
	case <-time.After(20 * time.Millisecond):
	}
	if _, err := io.ReadFull(b, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "the call", func() { <-fed })
	if n, waits := a.TryCreditOr(credited); n == 0 || waits {
		t.Errorf("credit %d, waits %v, want some at once", n, waits)
	}
	_ = a.CloseWrite()
	if n, waits := a.TryCreditOr(credited); n != 0 || waits {
		t.Errorf("after the end: credit %d, waits %v, want neither", n, waits)
	}
	if len(fed) > 0 {
		t.Error("called again")
	}
}
