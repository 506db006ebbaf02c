package link

import (
	"runtime"
	"testing"
	"time"

	"drvsock/internal/wire"
)

// TestIdleStreamsAreCheap opens many streams, uses each once and lets them lie.
func TestIdleStreamsAreCheap(t *testing.T) {
	const n, limit = 10_000, 4 << 10
	var all []*Stream
	h := func(in *Incoming) { echo(in) }
	g, _ := links(t, osPipes, Config{}, Config{Handler: h})
	warm := open(t, g)
	roundTrip(t, warm)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	for range n {
		s := open(t, g)
		roundTrip(t, s)
		all = append(all, s)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if got := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / n; got > 2*limit {
		t.Errorf("%d bytes for both ends of an idle stream, limit %d", got, 2*limit)
	}
	within(t, 10*time.Second, "the end of goroutines for streams that are idle", func() {
		for runtime.NumGoroutine()-goroutines > 10+1 { // this one is one more
			time.Sleep(time.Millisecond)
		}
	})
	runtime.KeepAlive(all)
}

// An echoSink sends back what it gets, in a goroutine while there is something.
type echoSink struct{ s *Stream }

func (e echoSink) TryWrite(p []byte) (int, error) { return 0, nil }
func (e echoSink) Write(p []byte) (int, error)    { return e.s.Write(p) }
func (e echoSink) CloseWrite() error              { return e.s.CloseWrite() }
func (e echoSink) Fail(error)                     {}

func echo(in *Incoming) {
	if s, err := in.Accept(wire.Answer{}); err == nil {
		s.Deliver(echoSink{s})
	}
}

func roundTrip(tb testing.TB, s *Stream) {
	tb.Helper()
	p := []byte{1}
	if _, err := s.Write(p); err != nil {
		tb.Fatal(err)
	}
	_ = s.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := s.Read(p); err != nil {
		tb.Fatal(err)
	}
	_ = s.SetReadDeadline(time.Time{})
}
