package relay

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"drvsock/internal/errno"
	"drvsock/internal/link"
)

// across makes two links with a bridge between them: a stream of the first one's
// guest is a stream of the second one's agent.
func across(tb testing.TB) (near, far *link.Stream, cut [2]func(), stop func()) {
	tb.Helper()
	g1, a1, in1 := pipes(tb)
	g2, a2, in2 := pipes(tb)
	near, _, err := g1.Open(tb.Context(), connect)
	if err != nil {
		tb.Fatal(err)
	}
	up, _, err := g2.Open(tb.Context(), connect)
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{})
	down := <-in1
	go func() {
		defer close(done)
		_ = Bridge(down, up)
	}()
	far = <-in2
	return near, far, [2]func(){func() { _ = g1.Close() }, func() { _ = a2.Close() }}, func() {
		for _, l := range []*link.Link{g1, a1, g2, a2} {
			_ = l.Close()
		}
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			tb.Error("a bridge outlives its links")
		}
	}
}

// bridged makes program, relay, link, bridge, link, relay, program.
func bridged(tb testing.TB) *bench {
	near, far, cut, stop := across(tb)
	var wg sync.WaitGroup
	var ends [2]*end
	for i, s := range []*link.Stream{near, far} {
		fd, c := connected(tb)
		ends[i] = &end{fd: fd}
		wg.Go(func() { _ = Join(aborter{c, fd}, s) })
	}
	return &bench{a: ends[0], b: ends[1], cut: cut[1], stop: func() {
		stop()
		wg.Wait()
	}}
}

// TestBridgeAsTheOS is TestAsTheOS with a bridge in the middle.
func TestBridgeAsTheOS(t *testing.T) {
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			asTheOS(t, sc.run, bridged, nil)
		})
	}
}

// TestBridgeEnds has each way in which a stream can end arrive as what it was,
// after the bytes before it, and leave the other direction alone where it did.
func TestBridgeEnds(t *testing.T) {
	reason := errno.Errorf(errno.ETIMEDOUT, errno.LayerHost, "for a test")
	const word = "word"
	cases := []struct {
		name  string
		end   func(s *link.Stream)
		reads error // what the far end's Read gives behind the word
		back  error // what the far end's Write gives in the end, nil if it goes on
		then  func(s *link.Stream)
	}{
		{"END", func(s *link.Stream) { _ = s.CloseWrite() }, io.EOF, nil, nil},
		{"END with a reason", func(s *link.Stream) { _ = s.EndWith(reason) }, reason, nil, nil},
		{"END and STOP", func(s *link.Stream) { _, _ = s.CloseWrite(), s.CloseRead(reason) }, io.EOF, reason, nil},
		{"END and RESET", func(s *link.Stream) { _ = s.CloseWrite() }, io.EOF, reason, func(s *link.Stream) { s.Reset(reason) }},
	}
	for _, c := range cases {
		for _, turned := range []bool{false, true} {
			name := c.name
			if turned {
				name += ", from the agent"
			}
			t.Run(name, func(t *testing.T) {
				near, far, _, stop := across(t)
				defer stop()
				if turned {
					near, far = far, near
				}
				if _, err := near.Write([]byte(word)); err != nil {
					t.Fatal(err)
				}
				c.end(near)
				got, err := io.ReadAll(far)
				if err == nil {
					err = io.EOF
				}
				if string(got) != word || !same(err, c.reads) {
					t.Errorf("the far end read %q, %v, want %q, %v", got, err, word, c.reads)
				}
				if c.then != nil { // a reset overtakes an end that is under way
					c.then(near)
				}
				if c.back == nil {
					if _, err := far.Write([]byte("answer")); err != nil {
						t.Errorf("the other direction: %v", err)
					}
					_ = far.CloseWrite()
					if got, err := io.ReadAll(near); string(got) != "answer" || err != nil {
						t.Errorf("the other direction brings %q, %v", got, err)
					}
					return
				}
				if err := writeUntil(far); !same(err, c.back) {
					t.Errorf("the far end's writes end with %v, want %v", err, c.back)
				}
			})
		}
	}
	t.Run("RESET", func(t *testing.T) {
		near, far, _, stop := across(t)
		defer stop()
		near.Reset(reason)
		if _, err := far.Read(make([]byte, 1)); !same(err, reason) {
			t.Errorf("read: %v, want %v", err, reason)
		}
		if err := writeUntil(far); !same(err, reason) {
			t.Errorf("write: %v, want %v", err, reason)
		}
	})
	t.Run("STOP", func(t *testing.T) {
		near, far, _, stop := across(t)
		defer stop()
		_ = far.CloseRead(reason)
		if err := writeUntil(near); !same(err, reason) {
			t.Errorf("write: %v, want %v", err, reason)
		}
		if _, err := far.Write([]byte(word)); err != nil {
			t.Errorf("the other direction: %v", err)
		}
		got := make([]byte, len(word))
		if _, err := io.ReadFull(near, got); err != nil || string(got) != word {
			t.Errorf("the other direction brings %q, %v", got, err)
		}
	})
	for i, name := range []string{"near link lost", "far link lost"} {
		t.Run(name, func(t *testing.T) {
			near, far, cut, stop := across(t)
			defer stop()
			cut[i]()
			for _, s := range []*link.Stream{near, far} {
				var e *errno.Error
				if _, err := s.Read(make([]byte, 1)); !errors.As(err, &e) || e.Layer != errno.LayerLink {
					t.Errorf("read: %v, want an error of the link", err)
				}
			}
		})
	}
}

func same(got, want error) bool {
	if want == io.EOF {
		return got == io.EOF
	}
	var g, w *errno.Error
	return errors.As(got, &g) && errors.As(want, &w) && *g == *w
}

func writeUntil(s *link.Stream) error {
	for range 500 {
		if _, err := s.Write([]byte("x")); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}

// TestBridgeBounded wants a reader that stops to stop its own peer, after what
// the two windows and the links hold, and nobody else.
func TestBridgeBounded(t *testing.T) {
	near, far, _, stop := across(t)
	defer stop()
	sent := 0
	block := make([]byte, 64<<10)
	for {
		_ = near.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := near.Write(block)
		sent += n
		if err != nil {
			break
		}
		if sent > 64<<20 {
			t.Fatal("nothing stops the writer")
		}
	}
	// The near peer gets what the far one grants, which is one window.
	if sent > link.DefaultWindow {
		t.Errorf("%d bytes are on their way, want at most %d", sent, link.DefaultWindow)
	}
	if _, err := far.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 10)
	if _, err := io.ReadFull(near, got); err != nil {
		t.Errorf("the other direction: %v", err)
	}
	_ = near.CloseWrite()
	if n, err := io.Copy(io.Discard, far); n != int64(sent) || err != nil {
		t.Errorf("%d bytes arrive, %v, want %d", n, err, sent)
	}
}

// stoppable is a transport whose reader can be stopped, after one more read.
type stoppable struct {
	io.ReadWriteCloser
	stopped atomic.Bool
	resume  chan struct{}
}

func (s *stoppable) Read(p []byte) (int, error) {
	n, err := s.ReadWriteCloser.Read(p)
	if s.stopped.Load() {
		<-s.resume
	}
	return n, err
}

// TestBridgeStopped wants a process at the far end that is stopped, and doesn't read
// its link at all, to leave the streams of the near link to others alone.
func TestBridgeStopped(t *testing.T) {
	end := &stoppable{resume: make(chan struct{})}
	g1, a1, in1 := pipes(t)
	g2, a2, in2 := pipesBy(t, func(rw io.ReadWriteCloser) io.ReadWriteCloser {
		end.ReadWriteCloser = rw
		return end
	})
	g3, a3, in3 := pipes(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() {
		close(end.resume)
		for _, l := range []*link.Link{g1, a1, g2, a2, g3, a3} {
			_ = l.Close()
		}
	}()
	join := func(to *link.Link) (near *link.Stream) {
		near, _, err := g1.Open(t.Context(), connect)
		if err != nil {
			t.Fatal(err)
		}
		up, _, err := to.Open(t.Context(), connect)
		if err != nil {
			t.Fatal(err)
		}
		down := <-in1
		wg.Go(func() { _ = Bridge(down, up) })
		return near
	}
	stuck := join(g2)
	<-in2
	free := join(g3)
	end.stopped.Store(true)
	go func() {
		far := <-in3
		_, _ = io.Copy(far, far)
	}()
	stuffed := make(chan int)
	go func() {
		_ = stuck.SetWriteDeadline(time.Now().Add(2 * time.Second))
		n, _ := stuck.Write(make([]byte, 2*link.DefaultWindow))
		stuffed <- n
	}()
	var longest time.Duration
	word := make([]byte, 64)
	for done, i := false, 0; !done || i < 100; i++ {
		from := time.Now()
		_ = free.SetDeadline(from.Add(5 * time.Second))
		if _, err := free.Write(word); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(free, word); err != nil {
			t.Fatal(err)
		}
		longest = max(longest, time.Since(from))
		select {
		case n := <-stuffed:
			if done = true; n != link.DefaultWindow {
				t.Errorf("%d bytes are on their way to who doesn't read, want %d", n, link.DefaultWindow)
			}
		default:
		}
	}
	t.Log("longest round trip:", longest)
	if longest > time.Second {
		t.Errorf("a round trip beside a stopped process took %v", longest)
	}
}

// TestBridgeBulk carries much both ways at once and compares.
func TestBridgeBulk(t *testing.T) {
	const size = 32 << 20
	near, far, _, stop := across(t)
	defer stop()
	var wg sync.WaitGroup
	sums := make([][]byte, 4)
	for i, s := range []*link.Stream{near, far} {
		wg.Go(func() {
			h := sha256.New()
			block := make([]byte, 1<<20)
			for j := range block {
				block[j] = byte(i + j*j/7)
			}
			for left := size; left > 0; {
				n := min(left, 1+(left*7919)%len(block))
				h.Write(block[:n])
				if _, err := s.Write(block[:n]); err != nil {
					t.Error(err)
					return
				}
				left -= n
			}
			sums[i] = h.Sum(nil)
			_ = s.CloseWrite()
		})
		wg.Go(func() {
			h := sha256.New()
			if _, err := io.Copy(h, s); err != nil {
				t.Error(err)
			}
			sums[3-i] = h.Sum(nil)
		})
	}
	wg.Wait()
	for i := range 2 {
		if !bytes.Equal(sums[i], sums[2+i]) {
			t.Errorf("direction %d: other bytes arrive than were sent", i)
		}
	}
}

// BenchmarkBridge compares a link alone with two and a bridge between them.
func BenchmarkBridge(b *testing.B) {
	ways := map[string]func(tb testing.TB) (near, far *link.Stream, stop func()){
		"link": func(tb testing.TB) (near, far *link.Stream, stop func()) {
			g, a, in := pipes(tb)
			near, _, err := g.Open(tb.Context(), connect)
			if err != nil {
				tb.Fatal(err)
			}
			return near, <-in, func() { _, _ = g.Close(), a.Close() }
		},
		"bridge": func(tb testing.TB) (near, far *link.Stream, stop func()) {
			near, far, _, stop = across(tb)
			return near, far, stop
		},
	}
	for name, way := range ways {
		b.Run(name+"/bulk", func(b *testing.B) {
			near, far, stop := way(b)
			defer stop()
			block := make([]byte, 1<<20)
			b.SetBytes(int64(len(block)))
			go func() {
				for range b.N {
					if _, err := near.Write(block); err != nil {
						b.Error(err)
					}
				}
				_ = near.CloseWrite()
			}()
			b.ResetTimer()
			if n, err := io.Copy(io.Discard, far); n != int64(b.N)*int64(len(block)) || err != nil {
				b.Errorf("%d bytes, %v", n, err)
			}
		})
		b.Run(name+"/trip", func(b *testing.B) {
			near, far, stop := way(b)
			defer stop()
			go func() {
				_, _ = io.Copy(far, far)
			}()
			word := make([]byte, 64)
			b.ResetTimer()
			for range b.N {
				if _, err := near.Write(word); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(near, word); err != nil {
					b.Fatal(err)
				}
			}
			_ = near.Close()
		})
	}
}
