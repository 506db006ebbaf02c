package link

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// A splicingSink takes what it likes, of a frame's bytes and out of the link's pipe.
type splicingSink struct {
	mu      sync.Mutex // a failure is told while Write may be under way
	rng     *rand.Rand
	got     []byte
	spliced int
	ended   chan error
}

func (s *splicingSink) take(p []byte) (int, error) {
	s.got = append(s.got, p...)
	return len(p), nil
}

func (s *splicingSink) TryWrite(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.take(p[:s.some(len(p))])
}

// some is how much of n it takes now: often all, since whatever is left keeps the rest
// from being spliced until it is written.
func (s *splicingSink) some(n int) int {
	if s.rng.IntN(4) > 0 {
		return n
	}
	return s.rng.IntN(n + 1)
}

func (s *splicingSink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.take(p)
}

func (s *splicingSink) TrySplice(pipe, n int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n = s.some(n); n == 0 {
		return 0, nil
	}
	p := make([]byte, n)
	n, err := unix.Read(pipe, p)
	if n <= 0 || err != nil {
		return 0, nil // none is there, or the end, which the link's reader meets too
	}
	s.spliced += n
	return s.take(p[:n])
}

func (s *splicingSink) CloseWrite() error { s.ended <- nil; return nil }
func (s *splicingSink) Fail(err error)    { s.ended <- err }

// What a speech ends with.
type ending int

const (
	silence ending = iota // the end of the pipe, maybe within a frame
	proper                // END
	madness               // bytes that mean anything
)

// speech is what a fuzzer's program has the peer say about stream 1 after its hello, in
// pieces that are written one by one, and the payload in it.
func speech(program []byte) (pieces [][]byte, payload []byte, how ending) {
	now := []byte(frame(wire.TypeAccept, 1))
	flush := func(n int) {
		if n > 0 {
			pieces = append(pieces, bytes.Clone(now[:n]))
			now = now[n:]
		}
	}
	for len(program) >= 3 && len(pieces) < 64 {
		op, n := program[0]%6, int(program[1])<<8|int(program[2])
		program = program[3:]
		switch op {
		case 0, 1: // bulk and not
			if n++; op == 1 {
				n = n%smallFrame + 1
			}
			if len(payload)+n > DefaultWindow {
				break // more need not be granted in time
			}
			p := make([]byte, n)
			for i := range p {
				p[i] = byte((len(payload) + i) * 31 >> 3)
			}
			payload = append(payload, p...)
			now = append(now, frame(wire.TypeData, 1, p...)...)
		case 2:
			now = append(now, frame(wire.TypePing, 0, 1, 2, 3, 4, 5, 6, 7, 8)...)
		case 3: // a cut, wherever that is in a frame
			flush(n % (len(now) + 1))
		case 4:
			now = append(now, frame(wire.TypeEnd, 1)...)
			flush(len(now))
			return pieces, payload, proper
		case 5:
			now = append(now, program...)
			flush(len(now))
			return pieces, payload, madness
		}
	}
	if len(program)%2 == 1 {
		flush(len(now) / 2)
	} else {
		flush(len(now))
	}
	return pieces, payload, silence
}

// hear has a guest's stream 1 take what is said, and returns what its sink got and how
// much of that out of the pipe, and how it was told the end.
func hear(t *testing.T, seed uint64, pieces [][]byte) (got []byte, spliced int, end error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	back, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	opened := make(chan struct{})
	go func() {
		defer back.Close()
		hello := make([]byte, wire.HelloSize)
		_, _ = io.ReadFull(back, hello)
		_, _ = io.CopyN(io.Discard, back, int64(hello[wire.HelloSize-1])+1) // and the first byte of OPEN
		close(opened)
		_, _ = io.Copy(io.Discard, back)
	}()
	rw, err := Files(r, out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(agentHello); err != nil {
		t.Fatal(err)
	}
	l, err := New(rw, Config{Role: wire.RoleGuest, Handler: func(in *Incoming) { in.Refuse(errno.EIO) }})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		defer w.Close()
		<-opened
		for i, p := range pieces {
			if i > 0 {
				time.Sleep(50 * time.Microsecond)
			}
			if _, err := w.Write(p); err != nil {
				return // the link ended before that
			}
		}
	}()
	sink := &splicingSink{rng: rand.New(rand.NewPCG(seed, 1)), ended: make(chan error, 2)}
	s, _, err := l.Open(context.Background(), anything)
	if err != nil {
		return nil, 0, err
	}
	defer s.Close()
	s.Deliver(sink)
	select {
	case end = <-sink.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("no end")
	}
	sink.mu.Lock()
	defer sink.mu.Unlock()
	return bytes.Clone(sink.got), sink.spliced, end
}

// FuzzSplice has a stream's bytes taken out of the link's pipe by a sink that takes what
// it likes: each comes once and in order, and all that were sent before an END.
func FuzzSplice(f *testing.F) {
	const bulk, small, ping, cut, end, mad = "\x00\xff\xff", "\x01\x00\x10", "\x02\x00\x00", "\x03\x40\x07", "\x04\x00\x00", "\x05\x00\x00"
	for i, p := range []string{bulk + bulk + small + ping + bulk + end, bulk + cut + bulk + cut + small + cut + end, bulk + ping + bulk + mad + "garbage", bulk + bulk + cut, strings.Repeat(bulk+cut, 12) + end} {
		f.Add(uint64(i), []byte(p))
	}
	f.Fuzz(func(t *testing.T, seed uint64, program []byte) {
		pieces, want, how := speech(program)
		got, _, err := hear(t, seed, pieces)
		switch {
		case !bytes.HasPrefix(want, got) && !(how == madness && bytes.HasPrefix(got, want)):
			t.Errorf("%d bytes came, and not those that were sent, %d", len(got), len(want))
		case how == proper && (err != nil || len(got) != len(want)):
			t.Errorf("%d of %d bytes came, and the end %v", len(got), len(want), err)
		case how == silence && err == nil:
			t.Error("an end that was not said")
		}
	})
}

// TestSplices wants some bytes to go this way.
func TestSplices(t *testing.T) {
	n := 0
	for seed := range uint64(8) {
		pieces, _, _ := speech([]byte(strings.Repeat("\x00\xff\xff\x03\xff\xff", 15) + "\x04\x00\x00"))
		_, spliced, err := hear(t, seed, pieces)
		if err != nil {
			t.Fatal(err)
		}
		n += spliced
	}
	if n == 0 {
		t.Error("none was spliced")
	}
}
