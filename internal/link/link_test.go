package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"drvsock/internal/errno"
	"drvsock/internal/wire"

	"github.com/google/go-cmp/cmp"
)

func within(tb testing.TB, d time.Duration, what string, f func()) {
	tb.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(d):
		tb.Fatalf("%s takes longer than %v", what, d)
	}
}

func TestRequestAndAnswer(t *testing.T) {
	req := wire.Request{Kind: wire.KindStat, Path: []byte(`C:\x`), Caller: wire.Caller{UID: 7, Program: "p"}}
	ans := wire.Answer{Stat: &wire.Stat{Socket: true, Size: 3}}
	g, a := links(t, netPipe, Config{Build: "g1"}, Config{Build: "a1", Handler: func(in *Incoming) {
		if d := cmp.Diff(req, in.Request); d != "" {
			t.Errorf("request (-want +got):\n%s", d)
		}
		s, err := in.Accept(ans)
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		if s.ID() != in.ID {
			t.Errorf("stream %d, want %d", s.ID(), in.ID)
		}
		_ = s.Close()
	}})
	if g.Peer().Build != "a1" || a.Peer().Build != "g1" {
		t.Errorf("builds %q and %q, want a1 and g1", g.Peer().Build, a.Peer().Build)
	}
	for want := uint32(1); want < 20; want += 2 {
		s, got, err := g.Open(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(ans, got); d != "" {
			t.Errorf("answer (-want +got):\n%s", d)
		}
		if s.ID() != want {
			t.Errorf("stream %d, want %d", s.ID(), want)
		}
		within(t, 5*time.Second, "the end of a stream that both closed", func() { <-s.Done() })
	}
	within(t, 5*time.Second, "forgetting of streams that are over", func() {
		for g.Streams()+a.Streams() > 0 {
			time.Sleep(time.Millisecond)
		}
	})
}

func TestRefusal(t *testing.T) {
	reason := &errno.Error{Errno: errno.EACCES, Layer: errno.LayerHost, System: 10013, Text: "no"}
	for _, tt := range []struct {
		name    string
		handler func(*Incoming)
		want    *errno.Error
	}{
		{"reason", func(in *Incoming) { in.Refuse(fmt.Errorf("bind: %w", reason)) }, reason},
		{"number", func(in *Incoming) { in.Refuse(errno.ELOOP) }, &errno.Error{Errno: errno.ELOOP, Text: "ELOOP"}},
		{"other error", func(in *Incoming) { in.Refuse(io.ErrNoProgress) }, &errno.Error{Errno: errno.EIO, Text: io.ErrNoProgress.Error()}},
		{"no answer", func(*Incoming) {}, &errno.Error{Errno: errno.EIO, Layer: errno.LayerLink, Text: "no answer"}},
		{"no handler", nil, &errno.Error{Errno: errno.EOPNOTSUPP, Layer: errno.LayerLink, Text: "the agent takes no requests"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, _ := links(t, netPipe, Config{}, Config{Handler: tt.handler})
			_, _, err := g.Open(t.Context(), anything)
			var got *errno.Error
			if !errors.As(err, &got) {
				t.Fatalf("open: %v, want an *errno.Error", err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("refusal (-want +got):\n%s", d)
			}
		})
	}
}

func TestOpenGivenUp(t *testing.T) {
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	g, a := links(t, netPipe, Config{}, Config{Handler: func(in *Incoming) {
		cancel()
		<-in.Context().Done()
		if _, err := in.Accept(wire.Answer{}); errno.Of(err) != errno.ECANCELED {
			t.Errorf("accept after a reset: %v, want ECANCELED", err)
		}
		close(ended)
	}})
	if _, _, err := g.Open(ctx, anything); !errors.Is(err, context.Canceled) {
		t.Errorf("open: %v, want the context's error", err)
	}
	within(t, 5*time.Second, "the handler", func() { <-ended })
	if a.Err() != nil || g.Err() != nil {
		t.Errorf("links ended: %v, %v", g.Err(), a.Err())
	}
}

func TestTooManyRequests(t *testing.T) {
	hold := make(chan struct{})
	g, _ := links(t, osPipes, Config{}, Config{Handler: func(in *Incoming) {
		<-hold
		in.Refuse(errno.ENOENT)
	}})
	results := make(chan errno.Errno, wire.MaxPending+10)
	for range wire.MaxPending + 10 {
		go func() {
			_, _, err := g.Open(context.Background(), anything)
			results <- errno.Of(err)
		}()
	}
	for i := range cap(results) {
		want := errno.ENFILE
		if i == 10 {
			close(hold)
		}
		if i >= 10 {
			want = errno.ENOENT
		}
		if got := <-results; got != want {
			t.Fatalf("answer %d: %v, want %v", i, got, want)
		}
	}
}

func TestHalfClose(t *testing.T) {
	a, b := streams(t, netPipe, Config{})
	for range 2 {
		if _, err := io.WriteString(a, "question"); err != nil {
			t.Fatal(err)
		}
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(a, "x"); errno.Of(err) != errno.EPIPE {
			t.Errorf("write after CloseWrite: %v, want EPIPE", err)
		}
		if got, err := io.ReadAll(b); string(got) != "question" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		a, b = b, a
	}
	within(t, 5*time.Second, "the end", func() { <-a.Done(); <-b.Done() })
}

func TestEndWith(t *testing.T) {
	a, b := streams(t, netPipe, Config{})
	_, _ = io.WriteString(a, "some")
	_ = a.EndWith(errno.ECONNRESET)
	got, err := io.ReadAll(b)
	if string(got) != "some" || errno.Of(err) != errno.ECONNRESET {
		t.Errorf("read %q, %v, want the bytes and ECONNRESET", got, err)
	}
	if _, err := io.WriteString(b, "x"); err != nil {
		t.Errorf("write the other way: %v", err)
	}
}

func TestStop(t *testing.T) {
	a, b := streams(t, netPipe, Config{Window: 1000})
	wrote := make(chan error)
	go func() {
		_, err := a.Write(make([]byte, 10_000))
		wrote <- err
	}()
	_, _ = io.ReadFull(b, make([]byte, 100))
	_ = b.CloseRead(nil)
	if err := <-wrote; errno.Of(err) != errno.EPIPE {
		t.Errorf("write to a peer that reads no more: %v, want EPIPE", err)
	}
	if _, err := io.WriteString(b, "answer"); err != nil {
		t.Error(err)
	}
	_ = b.CloseWrite()
	if got, err := io.ReadAll(a); string(got) != "answer" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	within(t, 5*time.Second, "the end", func() { <-a.Done(); <-b.Done() })
}

func TestResetHasAReason(t *testing.T) {
	a, b := streams(t, netPipe, Config{})
	read := make(chan error)
	go func() {
		_, err := b.Read(make([]byte, 1))
		read <- err
	}()
	a.Reset(errno.Errorf(errno.EPERM, errno.LayerAgent, "because"))
	err := <-read
	var op *net.OpError
	if !errors.As(err, &op) || errno.Of(err) != errno.EPERM || !strings.Contains(err.Error(), "because") {
		t.Errorf("read: %v, want EPERM because", err)
	}
	if _, err := a.Write([]byte("x")); errno.Of(err) != errno.EPERM {
		t.Errorf("write: %v, want EPERM", err)
	}
}

func TestUnreadStreamStallsNoOther(t *testing.T) {
	h, c := acceptor()
	g, _ := links(t, osPipes, Config{}, Config{Handler: h})
	stuck := open(t, g)
	<-c
	go func() { _, _ = stuck.Write(make([]byte, 4*DefaultWindow)) }()
	within(t, 20*time.Second, "a stream beside one that is not read", func() {
		a := open(t, g)
		b := <-c
		go func() {
			_, _ = a.Write(make([]byte, 4<<20))
			_ = a.CloseWrite()
		}()
		n, err := io.Copy(io.Discard, b)
		if n != 4<<20 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}

// TestFullBothWays fills both transports: nobody may wait for the other to
// read.
func TestFullBothWays(t *testing.T) {
	for _, tr := range []transport{netPipe, osPipes, plainPipes, delaying} {
		t.Run(tr.name, func(t *testing.T) {
			h, c := acceptor()
			g, _ := links(t, tr, Config{Window: 5000}, Config{Window: 5000, Handler: h})
			within(t, 30*time.Second, "traffic both ways", func() {
				var wg sync.WaitGroup
				for range 20 {
					a := open(t, g)
					b := <-c
					for _, p := range [][2]*Stream{{a, b}, {b, a}} {
						wg.Go(func() { _, _ = p[0].Write(make([]byte, 50_000)); _ = p[0].CloseWrite() })
						wg.Go(func() {
							if n, err := io.Copy(io.Discard, p[1]); n != 50_000 || err != nil {
								t.Errorf("%d bytes, %v", n, err)
							}
						})
					}
				}
				wg.Wait()
			})
		})
	}
}

// TestEndOfLink ends a link in each way, with somebody blocked in each call.
func TestEndOfLink(t *testing.T) {
	for _, tt := range []struct {
		name  string
		end   func(g, a *Link)
		want  errno.Errno // of the guest's calls
		guest error       // nil: an *errno.Error
		agent error
	}{
		{"closed here", func(g, _ *Link) { _ = g.Close() }, errno.ECONNRESET, net.ErrClosed, io.EOF},
		{"closed there", func(_, a *Link) { _ = a.Close() }, errno.ECONNRESET, io.EOF, net.ErrClosed},
		{"transport gone", func(_, a *Link) { _ = a.rw.Close() }, errno.ECONNRESET, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, c := acceptor()
			g, a := links(t, osPipes, Config{}, Config{Window: 100, Handler: func(in *Incoming) {
				if in.Request.Kind == wire.KindStat {
					<-in.Context().Done()
					return
				}
				h(in)
			}})
			s := open(t, g)
			<-c
			results := make(chan error, 4)
			go func() { _, err := s.Read(make([]byte, 1)); results <- err }()
			go func() { _, err := s.Write(make([]byte, 1000)); results <- err }()
			go func() { <-s.Done(); results <- errno.ECONNRESET }()
			go func() {
				_, _, err := g.Open(context.Background(), wire.Request{Kind: wire.KindStat, Path: []byte("x")})
				results <- err
			}()
			time.Sleep(20 * time.Millisecond)
			tt.end(g, a)
			within(t, 5*time.Second, "the end", func() {
				for range 4 {
					if err := <-results; errno.Of(err) != tt.want {
						t.Errorf("blocked call: %v, want %v", err, tt.want)
					}
				}
				<-g.Done()
				<-a.Done()
			})
			for _, l := range []struct {
				err, want error
			}{{g.Err(), tt.guest}, {a.Err(), tt.agent}} {
				var e *errno.Error
				if l.want != nil && !errors.Is(l.err, l.want) || l.want == nil && (!errors.As(l.err, &e) || e.Layer != errno.LayerLink) {
					t.Errorf("link ended with %v, want %v", l.err, l.want)
				}
			}
			if _, _, err := g.Open(t.Context(), anything); errno.Of(err) != errno.ECONNRESET {
				t.Errorf("open on an ended link: %v, want ECONNRESET", err)
			}
		})
	}
}

func TestWrittenBeforeCloseArrives(t *testing.T) {
	for range 50 {
		a, b := streams(t, osPipes, Config{})
		want := bytes.Repeat([]byte("x"), 100_000)
		go func() {
			_, _ = a.Write(want)
			_ = a.Close()
			_ = a.l.Close()
		}()
		if got, err := io.ReadAll(b); len(got) != len(want) || err != nil {
			t.Fatalf("%d bytes, %v, want %d", len(got), err, len(want))
		}
	}
}

func TestDeadlineEndsOnlyTheCall(t *testing.T) {
	a, b := streams(t, netPipe, Config{Window: 10})
	_ = a.SetDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v, want the deadline", err)
	}
	_ = a.SetDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := a.Write(make([]byte, 20)); n != 10 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: %d, %v, want 10 and the deadline", n, err)
	}
	_ = a.SetDeadline(time.Time{})
	_, _ = io.ReadFull(b, make([]byte, 10))
	if _, err := a.Write(make([]byte, 5)); err != nil {
		t.Errorf("write after the deadline is lifted: %v", err)
	}
}
