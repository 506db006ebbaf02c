package link

import (
	"errors"
	"io"
	"os"
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
