package link

import (
	"context"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"drvsock/internal/wire"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A transport makes the two ends of a byte stream.
type transport struct {
	name string
	make func(tb testing.TB) (a, b io.ReadWriteCloser)
}

var netPipe = transport{"net.Pipe", func(testing.TB) (io.ReadWriteCloser, io.ReadWriteCloser) {
	return net.Pipe()
}}

var osPipes = transport{"pipes", func(tb testing.TB) (io.ReadWriteCloser, io.ReadWriteCloser) {
	ar, bw, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	br, aw, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	a, err := Files(ar, aw)
	if err != nil {
		tb.Fatal(err)
	}
	b, err := Files(br, bw)
	if err != nil {
		tb.Fatal(err)
	}
	return a, b
}}

// plainPipes are pipes without TryWrite and larger buffers.
var plainPipes = transport{"plain pipes", func(tb testing.TB) (io.ReadWriteCloser, io.ReadWriteCloser) {
	ar, bw, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	br, aw, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	return &pair{ar, aw}, &pair{br, bw}
}}

// byteByByte reads and writes one byte at a time.
var byteByByte = transport{"byte by byte", func(tb testing.TB) (io.ReadWriteCloser, io.ReadWriteCloser) {
	a, b := osPipes.make(tb)
	return slow{a, 1, 0}, slow{b, 1, 0}
}}

// delaying delays each read.
var delaying = transport{"delaying", func(tb testing.TB) (io.ReadWriteCloser, io.ReadWriteCloser) {
	a, b := osPipes.make(tb)
	return slow{a, 1000, time.Millisecond}, slow{b, 1000, time.Millisecond}
}}

type slow struct {
	io.ReadWriteCloser
	most int
	wait time.Duration
}

func (s slow) Read(p []byte) (int, error) {
	if s.wait > 0 {
		time.Sleep(s.wait)
	}
	return s.ReadWriteCloser.Read(p[:min(len(p), s.most)])
}

func (s slow) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := s.ReadWriteCloser.Write(p[done:min(len(p), done+s.most)])
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// links makes a guest and an agent that are linked; both are closed at the end
// of the test.
func links(tb testing.TB, tr transport, guest, agent Config) (*Link, *Link) {
	tb.Helper()
	a, b := tr.make(tb)
	guest.Role, agent.Role = wire.RoleGuest, wire.RoleAgent
	type result struct {
		l   *Link
		err error
	}
	c := make(chan result, 1)
	go func() {
		l, err := New(b, agent)
		c <- result{l, err}
	}()
	g, err := New(a, guest)
	r := <-c
	if err != nil || r.err != nil {
		tb.Fatalf("linking: %v, %v", err, r.err)
	}
	tb.Cleanup(func() {
		_ = g.Close()
		_ = r.l.Close()
	})
	return g, r.l
}

var anything = wire.Request{Kind: wire.KindConnect, Path: []byte("x")}

// acceptor is a handler that accepts and passes the streams on.
func acceptor() (func(*Incoming), chan *Stream) {
	c := make(chan *Stream, 100)
	return func(in *Incoming) {
		if s, err := in.Accept(wire.Answer{}); err == nil {
			c <- s
		}
	}, c
}

// streams makes the two ends of one stream, the opener's first.
func streams(tb testing.TB, tr transport, cfg Config) (*Stream, *Stream) {
	tb.Helper()
	h, c := acceptor()
	agent := cfg
	agent.Handler = h
	g, _ := links(tb, tr, cfg, agent)
	return open(tb, g), <-c
}

func open(tb testing.TB, l *Link) *Stream {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, _, err := l.Open(ctx, anything)
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	return s
}
