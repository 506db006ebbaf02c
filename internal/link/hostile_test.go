package link

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

var agentHello = (&wire.Hello{Version: 1, MinVersion: 1, Role: wire.RoleAgent, Window: 100, Build: "b"}).Append(nil)

func TestNotAHello(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"bash: line 1: drvsock: command not found\n", `no drvsock hello, but "bash: line 1: drvsock: command not found"`},
		{"d", "hello cut short after 1 bytes"},
		{"drvsock is not installed here, sorry\n", `but "drvsock is not installed here, sorry"`},
		{"\xff\xfeW\x00S\x00L\x00\r\x00\n\x00", `but "`},
		{strings.Repeat("long ", 100), `long long"`},
		{"", "ended without a word"},
		{string(agentHello[:20]), "hello cut short after 20 bytes"},
		{string((&wire.Hello{Version: 1, MinVersion: 1, Role: wire.RoleGuest, Window: 100}).Append(nil)), "both sides of the link are the guest"},
		{string((&wire.Hello{Version: 9, MinVersion: 8, Role: wire.RoleAgent, Window: 100, Build: "new"}).Append(nil)), `build "new"`},
	} {
		x, y := net.Pipe()
		go func() {
			go func() { _, _ = io.Copy(io.Discard, y) }()
			_, _ = io.WriteString(y, tt.in)
			_ = y.Close()
		}()
		_, err := New(x, Config{Role: wire.RoleGuest})
		if err == nil || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 400 {
			t.Errorf("%.40q: got error %v, want one with %s", tt.in, err, tt.want)
		}
	}
}

func frame(t wire.Type, id uint32, p ...byte) string {
	return string(append(wire.Header{Type: t, Stream: id, Length: uint32(len(p))}.Append(nil), p...))
}

// TestProtocolErrors says things that a peer may not say, to a guest that has
// opened stream 1, window 100, which the peer accepts where the first letter
// of the name is a lower-case one.
func TestProtocolErrors(t *testing.T) {
	reason := wire.AppendRefusal(nil, &errno.Error{Errno: errno.EIO})
	window := func(n ...byte) string { return frame(wire.TypeWindow, 1, n...) }
	data := func(n int) string { return frame(wire.TypeData, 1, make([]byte, n)...) }
	for _, tt := range []struct{ name, in, want string }{
		{"unknown type", "\xff" + data(1), "unknown type 255"},
		{"data beyond the window", data(60) + data(41), "41 bytes where the window has 40"},
		{"data after the end", frame(wire.TypeEnd, 1) + data(1), "after END"},
		{"end after the end", frame(wire.TypeEnd, 1) + frame(wire.TypeEnd, 1), "after END"},
		{"never opened", frame(wire.TypeEnd, 3), "never opened"},
		{"never opened by itself", frame(wire.TypeEnd, 2), "never opened"},
		{"our id", frame(wire.TypeOpen, 5), "an id of this side"},
		{"ids that descend", frame(wire.TypeOpen, 4) + frame(wire.TypeOpen, 2), "stream 2 after 4"},
		{"window of zero", window(0, 0, 0, 0), "out of bounds"},
		{"window too large", window(0x7f, 0xff, 0xff, 0xff), "out of bounds"},
		{"second answer", frame(wire.TypeAccept, 1), "nothing to answer"},
		{"refusal after the answer", frame(wire.TypeRefuse, 1, reason...), "nothing to answer"},
		{"reason that is none", frame(wire.TypeReset, 1, 1), "refusal:"},
		{"goaway that is none", frame(wire.TypeGoaway, 0, 1), "refusal:"},
		{"answer that is none", frame(wire.TypeAccept, 1, 1), "answer:"},
		{"Data before the answer", data(1), "not accepted"},
		{"Window before the answer", window(0, 0, 0, 1), "not accepted"},
		{"Stop before the answer", frame(wire.TypeStop, 1, reason...), "not accepted"},
		{"End before the answer", frame(wire.TypeEnd, 1), "not accepted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x, y := net.Pipe()
			got := make(chan []byte)
			go func() {
				b, _ := io.ReadAll(y)
				got <- b
			}()
			go func() { _, _ = y.Write(agentHello) }()
			l, err := New(x, Config{Role: wire.RoleGuest, Window: 100})
			if err != nil {
				t.Fatal(err)
			}
			go func() { _, _, _ = l.Open(t.Context(), anything) }()
			for l.Streams() == 0 {
				time.Sleep(time.Millisecond)
			}
			go func() {
				if tt.name[0] >= 'a' {
					_, _ = io.WriteString(y, frame(wire.TypeAccept, 1))
				}
				_, _ = io.WriteString(y, tt.in)
			}()
			within(t, 5*time.Second, "the end of the link", func() { <-l.Done() })
			if err := l.Err(); errno.Of(err) != errno.EPROTO || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("link ended with %v, want EPROTO with %q", err, tt.want)
			}
			if b := <-got; !bytes.Contains(b, []byte(tt.want)) {
				t.Errorf("the peer was not told why: %q", b)
			}
			_ = y.Close()
		})
	}
}

// TestLateFrames says things that were under way when a stream ended.
func TestLateFrames(t *testing.T) {
	a, b := streams(t, netPipe, Config{})
	a.Reset(errno.EIO)
	within(t, 5*time.Second, "the reset", func() { <-b.Done() })
	reason := wire.AppendRefusal(nil, &errno.Error{Errno: errno.EIO})
	id := a.ID()
	for _, f := range []string{
		frame(wire.TypeData, id, 1, 2, 3), frame(wire.TypeEnd, id), frame(wire.TypeStop, id, reason...),
		frame(wire.TypeReset, id, reason...), frame(wire.TypeWindow, id, 0, 0, 0, 1), frame(wire.TypeAccept, id),
	} {
		if err := a.l.out.frame([]byte(f)); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, a.l) // comes after them
	if b.l.Err() != nil {
		t.Errorf("link ended: %v", b.l.Err())
	}
	_ = s.Close()
}

// A recorder keeps what is read through it.
type recorder struct {
	io.ReadWriteCloser
	mu  sync.Mutex
	got []byte
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.ReadWriteCloser.Read(p)
	r.mu.Lock()
	r.got = append(r.got, p[:n]...)
	r.mu.Unlock()
	return n, err
}

// converse has a conversation of the guest's and returns its end.
func converse(l *Link) error {
	s, _, err := l.Open(context.Background(), anything)
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := io.WriteString(s, "question"); err != nil {
		return err
	}
	_ = s.CloseWrite()
	_, err = io.Copy(io.Discard, s)
	return err
}

// TestCutAnywhere ends the transport after each byte of what an agent says:
// the guest's calls end, and an end that was not said in full is never a
// proper one.
func TestCutAnywhere(t *testing.T) {
	x, y := net.Pipe()
	rec := &recorder{ReadWriteCloser: x}
	go func() {
		l, err := New(y, Config{Role: wire.RoleAgent, Build: "b", Handler: func(in *Incoming) {
			s, err := in.Accept(wire.Answer{})
			if err != nil {
				return
			}
			b, _ := io.ReadAll(s)
			_, _ = s.Write(append(b, " and answer"...))
			_ = s.CloseWrite()
		}})
		if err == nil {
			<-l.Done()
		}
	}()
	g, err := New(rec, Config{Role: wire.RoleGuest})
	if err != nil {
		t.Fatal(err)
	}
	if err := converse(g); err != nil {
		t.Fatal(err)
	}
	_ = g.Close()
	rec.mu.Lock()
	said := rec.got
	rec.mu.Unlock()
	end := bytes.LastIndex(said, []byte(frame(wire.TypeEnd, 1)))
	if end < 0 {
		t.Fatalf("no END in %q", said)
	}
	for n := range len(said) {
		x, y := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, y) }()
		go func() {
			// The guest's stream must be there when the answer comes.
			hello := min(n, wire.HelloSize+int(said[wire.HelloSize-1]))
			_, _ = y.Write(said[:hello])
			time.Sleep(2 * time.Millisecond)
			_, _ = y.Write(said[hello:n])
			_ = y.Close()
		}()
		within(t, 5*time.Second, "a cut conversation", func() {
			l, err := New(x, Config{Role: wire.RoleGuest})
			if err == nil {
				err = converse(l)
				_ = l.Close()
			}
			if err == nil && n < end+wire.HeaderSize {
				t.Errorf("cut after %d of %d bytes: %v", n, len(said), err)
			}
		})
	}
}

func FuzzLink(f *testing.F) {
	f.Add([]byte(frame(wire.TypeAccept, 1) + frame(wire.TypeData, 1, 1, 2) + frame(wire.TypeEnd, 1)))
	f.Add([]byte(frame(wire.TypeOpen, 2, 1, 0, 1, 5, 2, 0, 1, 'x') + frame(wire.TypePing, 0, 1, 2, 3, 4, 5, 6, 7, 8)))
	f.Fuzz(func(t *testing.T, in []byte) {
		x, y := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, y) }()
		go func() {
			_, _ = y.Write(agentHello)
			_, _ = y.Write(in)
			_ = y.Close()
		}()
		l, err := New(x, Config{Role: wire.RoleGuest, Handler: func(in *Incoming) { in.Refuse(errno.EIO) }})
		if err != nil {
			t.Fatal(err)
		}
		within(t, 5*time.Second, "a conversation", func() {
			_ = converse(l)
			<-l.Done()
		})
	})
}
