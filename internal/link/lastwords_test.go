package link

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// deaf makes an agent with two streams that its peer has opened. The peer reads
// nothing any more, so that the agent can't write, and may still say something.
func deaf(t *testing.T) (l *Link, streams [2]*Stream, say *os.File) {
	t.Helper()
	r, say, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	hear, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	rw, err := Files(r, w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = say.Close() })
	open, err := anything.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	hello := (&wire.Hello{Version: 1, MinVersion: 1, Role: wire.RoleGuest, Window: 100}).Append(nil)
	if _, err := io.WriteString(say, string(hello)+frame(wire.TypeOpen, 1, open...)+frame(wire.TypeOpen, 3, open...)); err != nil {
		t.Fatal(err)
	}
	h, c := acceptor()
	if l, err = New(rw, Config{Role: wire.RoleAgent, Handler: h}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	for range streams {
		s := <-c
		streams[s.ID()/2] = s
	}
	if err := hear.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := streams[0].Write([]byte("x")); !errors.Is(err, errno.ECONNRESET) {
		t.Fatalf("a write that nobody reads: %v", err)
	}
	return l, streams, say
}

// TestLastWords has a peer that leaves in good order, while something is written
// to it that it doesn't read any more: what it said before counts.
func TestLastWords(t *testing.T) {
	l, streams, say := deaf(t)
	if _, err := io.WriteString(say, frame(wire.TypeData, 3, 'b', 'y', 'e')+frame(wire.TypeEnd, 3)+frame(wire.TypeGoaway, 0)); err != nil {
		t.Fatal(err)
	}
	_ = say.Close()
	if got, err := io.ReadAll(streams[1]); string(got) != "bye" || err != nil {
		t.Errorf("the stream that ended brings %q, %v", got, err)
	}
	if got, err := io.ReadAll(streams[0]); !errors.Is(err, errno.ECONNRESET) {
		t.Errorf("the stream that did not end brings %q, %v", got, err)
	}
	<-l.Done()
	if !errors.Is(l.Err(), io.EOF) {
		t.Errorf("the link ended with %v, want what the peer said", l.Err())
	}
}

// TestNoLastWords has a peer that neither reads nor says anything more.
func TestNoLastWords(t *testing.T) {
	began := time.Now()
	l, streams, _ := deaf(t)
	select {
	case <-l.Done():
	case <-time.After(20 * time.Second): // DeadAfter comes later
		t.Fatal("the link lives on")
	}
	if took := time.Since(began); took > DefaultDeadAfter/2 || !errors.Is(l.Err(), errno.ECONNRESET) {
		t.Errorf("the link ended after %v with %v", took, l.Err())
	}
	if _, err := streams[1].Read(make([]byte, 1)); !errors.Is(err, errno.ECONNRESET) {
		t.Errorf("its stream: %v", err)
	}
}

// halfWriter is a transport that fails once within a frame.
type halfWriter struct {
	io.ReadWriteCloser
	fail, failed atomic.Bool
}

var errHalf = errors.New("for a test")

func (h *halfWriter) Write(p []byte) (int, error) {
	if h.fail.Load() && !h.failed.Swap(true) {
		n, _ := h.ReadWriteCloser.Write(p[:len(p)/2])
		return n, errHalf
	}
	return h.ReadWriteCloser.Write(p)
}

// TestNothingAfterHalfAFrame has a write fail in the midst of its payload: what
// would follow, the link's own last frame too, would be read as payload.
func TestNothingAfterHalfAFrame(t *testing.T) {
	a, b := net.Pipe()
	half := &halfWriter{ReadWriteCloser: a}
	heard := &recorder{ReadWriteCloser: b}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h, _ := acceptor()
		if l, err := New(heard, Config{Role: wire.RoleAgent, Handler: h}); err == nil {
			<-l.Done()
		}
	}()
	l, err := New(half, Config{Role: wire.RoleGuest})
	if err != nil {
		t.Fatal(err)
	}
	x, y := open(t, l), open(t, l)
	half.fail.Store(true)
	word := bytes.Repeat([]byte("x"), 100)
	if _, err := x.Write(word); !errors.Is(err, errno.ECONNRESET) {
		t.Errorf("the write that fails: %v", err)
	}
	if _, err := y.Write([]byte("other")); !errors.Is(err, errno.ECONNRESET) {
		t.Errorf("a write behind it: %v", err)
	}
	_ = y.CloseWrite()
	_ = l.Close()
	<-ended
	heard.mu.Lock()
	got := heard.got
	heard.mu.Unlock()
	want := frame(wire.TypeData, 1, word...)
	if want = want[:len(want)/2]; !bytes.HasSuffix(got, []byte(want)) {
		t.Errorf("the other side got %q at the end, want half of the frame", got[max(len(got)-200, 0):])
	}
}

// TestEndsBeforeClose ends many streams and the link right behind: each END was
// written, whoever was just writing it, and so each reader meets the end and not the
// loss of the link.
func TestEndsBeforeClose(t *testing.T) {
	for _, tr := range []transport{osPipes, netPipe, socketPair} {
		for i := range 100 {
			h, c := acceptor()
			g, a := links(t, tr, Config{}, Config{Handler: h})
			var near, far []*Stream
			for range 30 {
				near = append(near, open(t, g))
				far = append(far, <-c)
			}
			for _, s := range near {
				_ = s.CloseWrite()
			}
			_ = g.Close()
			for j, s := range far {
				if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.EOF {
					t.Fatalf("try %d, stream %d: %d bytes, %v, want %v", i, j, n, err, io.EOF)
				}
			}
			_ = a.Close()
		}
	}
}

// TestNoEndWithoutItsBytes ends a stream of which bytes found the link ended, while its
// last frame was yet to come: that must not make the peer believe that it had all.
func TestNoEndWithoutItsBytes(t *testing.T) {
	for _, try := range []bool{false, true} {
		h, c := acceptor()
		g, a := links(t, osPipes, Config{}, Config{Handler: h})
		whole, cut := open(t, g), open(t, g)
		far := [2]*Stream{<-c, <-c}
		if _, err := whole.Write([]byte("all")); err != nil {
			t.Fatal(err)
		}
		g.out.fail(errno.Errorf(errno.ECONNRESET, errno.LayerLink, "for a test")) // as shutdown begins
		var err error
		if b := NewBuffer(); try {
			_, err = cut.TrySend(b, 3)
		} else {
			err = cut.Send(b, 3)
		}
		if !errors.Is(err, errno.ECONNRESET) {
			t.Errorf("try %v: a frame after the end of the link: %v", try, err)
		}
		for _, s := range []*Stream{whole, cut} {
			_ = s.EndBoth(nil, errno.EPIPE)
		}
		g.out.last(goaway(errno.Errorf(errno.EPROTO, errno.LayerLink, "for a test")))
		if b, err := io.ReadAll(far[0]); string(b) != "all" || err != nil {
			t.Errorf("try %v: the whole stream: %q, %v", try, b, err)
		}
		if b, err := io.ReadAll(far[1]); len(b) > 0 || !errors.Is(err, errno.EPROTO) {
			t.Errorf("try %v: the other one: %q, %v, want what the link ended with", try, b, err)
		}
		_ = g.Close()
		_ = a.Close()
	}
}
