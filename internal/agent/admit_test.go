package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"drvsock/internal/errno"
	"drvsock/internal/proof"
	"drvsock/internal/wire"
)

// pipeListener is a listener in memory, so that time can be a test's own.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// dial connects, or tells that nobody listens.
func (l *pipeListener) dial(t *testing.T) (net.Conn, bool) {
	a, b := net.Pipe()
	t.Cleanup(func() { _ = a.Close() })
	select {
	case l.conns <- b:
		return a, true
	case <-l.closed:
		_ = b.Close()
		return nil, false
	}
}

var guestParty = proof.Party{Role: wire.RoleGuest, Side: proof.Dialled}

type admitted struct {
	conn  net.Conn
	err   error
	after time.Duration
	log   string
}

// admitting runs an admit.
func admitting(ctx context.Context, l net.Listener, s proof.Secret) chan admitted {
	done := make(chan admitted, 1)
	start := time.Now()
	go func() {
		var log bytes.Buffer
		c, err := admit(ctx, l, s, slog.New(slog.NewTextHandler(&log, nil)))
		done <- admitted{c, err, time.Since(start), log.String()}
	}()
	return done
}

func TestAdmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s := newPipeListener(), proof.NewSecret()
		done := admitting(t.Context(), l, s)
		// More that say nothing than there is room for, and some that say the wrong.
		var ended [2 * maxProving]atomic.Bool
		for i := range ended {
			c, ok := l.dial(t)
			if !ok {
				t.Fatal("nobody listens")
			}
			go func() {
				_, _ = io.Copy(io.Discard, c)
				ended[i].Store(true)
			}()
		}
		synctest.Wait()
		for i := range ended {
			if got, want := ended[i].Load(), i < maxProving; got != want {
				t.Errorf("silent connection %d has ended: %v, want %v", i, got, want)
			}
		}
		for range 3 {
			c, _ := l.dial(t)
			if err := proof.Prove(t.Context(), c, proof.NewSecret(), guestParty); err == nil {
				t.Error("a stranger got in")
			}
			_ = c.Close()
		}
		c, _ := l.dial(t)
		if err := proof.Prove(t.Context(), c, s, guestParty); err != nil {
			t.Fatalf("who knows the secret: %v", err)
		}
		got := <-done
		if got.err != nil || got.after != 0 {
			t.Fatalf("%v after %v", got.err, got.after)
		}
		go func() { _, _ = got.conn.Write([]byte("x")) }()
		b := make([]byte, 1)
		if _, err := io.ReadFull(c, b); err != nil || b[0] != 'x' {
			t.Errorf("after the proof: %q, %v", b, err)
		}
		if _, ok := l.dial(t); ok {
			t.Error("somebody still listens")
		}
		_ = got.conn.Close()
		if n := strings.Count(got.log, "\n"); n != 2 {
			t.Errorf("%d lines of log, want 2:\n%s", n, got.log)
		}
	})
}

// TestAdmitNobody has the time go by, with and without a stranger that is silent.
func TestAdmitNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 2 {
			l := newPipeListener()
			got := <-admitting(t.Context(), l, proof.NewSecret())
			if !errors.Is(got.err, errno.ETIMEDOUT) || got.after != admitFor || got.conn != nil {
				t.Errorf("%v after %v", got.err, got.after)
			}
			l = newPipeListener()
			done := admitting(t.Context(), l, proof.NewSecret())
			c, _ := l.dial(t)
			got = <-done
			if got.after != admitFor {
				t.Errorf("with a silent one: %v after %v", got.err, got.after)
			}
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("the silent one is still connected")
			}
		}
	})
}

// TestAdmitMany wants an end to guessing.
func TestAdmitMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		done := admitting(t.Context(), l, proof.NewSecret())
		n := 0
		for ; n < 2*maxUnproven; n++ {
			c, ok := l.dial(t)
			if !ok {
				break
			}
			_, _ = c.Write([]byte("GET / HTTP/1.1\r\n"))
			_ = c.Close()
			synctest.Wait()
		}
		got := <-done
		if n != maxUnproven || !errors.Is(got.err, errno.EACCES) || got.after != 0 {
			t.Errorf("%v after %d connections and %v", got.err, n, got.after)
		}
		if lines := strings.Count(got.log, "\n"); lines != 2 || !strings.Contains(got.log, "count=64") {
			t.Errorf("%d lines of log:\n%s", lines, got.log)
		}
	})
}

func TestAdmitGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := newPipeListener()
		done := admitting(ctx, l, proof.NewSecret())
		_, _ = l.dial(t)
		time.Sleep(time.Second)
		cancel()
		if got := <-done; !errors.Is(got.err, context.Canceled) || got.after != time.Second {
			t.Errorf("%v after %v", got.err, got.after)
		}
	})
}

// brokenListener gives no connection.
type brokenListener struct{ *pipeListener }

func (brokenListener) Accept() (net.Conn, error) { return nil, errno.ENOBUFS }

// TestAdmitBroken has a listener that fails: that is the reason, and not strangers
// who never came.
func TestAdmitBroken(t *testing.T) {
	l := brokenListener{newPipeListener()}
	got := <-admitting(t.Context(), l, proof.NewSecret())
	if got.conn != nil || !errors.Is(got.err, errno.ENOBUFS) || errors.Is(got.err, errno.EACCES) {
		t.Errorf("%v, %v", got.conn, got.err)
	}
	select {
	case <-l.closed:
	case <-time.After(5 * time.Second):
		t.Error("the listener stays")
	}
}
