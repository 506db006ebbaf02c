package cygwin

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// client connects to the socket at path as its text says, read here without Parse.
func client(t *testing.T, path string) (c *net.TCPConn, secret string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`^!<socket >(\d+) s ([0-9a-f]{8})-([0-9a-f]{8})-([0-9a-f]{8})-([0-9a-f]{8})\x00$`).FindStringSubmatch(string(b))
	if m == nil {
		t.Fatalf("the file is %q", b)
	}
	for _, w := range m[2:] {
		n, err := strconv.ParseUint(w, 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		secret += string([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
	}
	conn, err := net.Dial("tcp4", "127.0.0.1:"+m[1])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn), secret
}

func listener(t *testing.T) *Listener {
	t.Helper()
	l, err := Listen(filepath.Join(t.TempDir(), "sock"), Options{UID: -1, GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// accept is Accept with a bound.
func accept(t *testing.T, l *Listener) (*net.TCPConn, wire.Caller) {
	t.Helper()
	late := time.AfterFunc(20*time.Second, func() { _ = l.Close() })
	defer late.Stop()
	conn, caller, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, caller
}

func TestListen(t *testing.T) {
	for _, c := range []struct{ name, cred, answer string }{
		{"Cygwin", cred12, ownCred(4) + cred12[4:]},
		{"libassuan", cred8, ownCred(4) + cred8[4:]},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := listener(t)
			conn, secret := client(t, l.Addr())
			got, err := play(conn, secret, 16, c.cred, len(c.cred), "hello")
			if string(got) != secret+c.answer || err != nil {
				t.Errorf("heard %q, %v, want %q", got, err, secret+c.answer)
			}
			server, caller := accept(t, l)
			if caller.PID != 0x1234 || caller.UID != 0 || caller.User != "" {
				t.Errorf("caller %+v", caller)
			}
			if b, err := play(server, 5, "bye"); string(b) != "hello" || err != nil {
				t.Errorf("the data are %q, %v", b, err)
			}
			if err := server.CloseWrite(); err != nil {
				t.Error(err)
			}
			if b, err := io.ReadAll(conn); string(b) != "bye" || err != nil {
				t.Errorf("the data back are %q, %v", b, err)
			}
		})
	}
}

// Both ends of this package, and pieces that come late and small.
func TestBothEnds(t *testing.T) {
	l := listener(t)
	conn, err := Dial(t.Context(), l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, caller := accept(t, l); caller.PID != uint32(os.Getpid()) {
		t.Fatalf("caller %+v", caller)
	}

	slow, secret := client(t, l.Addr())
	for i := range len(secret) {
		if _, err := play(slow, secret[i:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := play(slow, 16, cred12[:5], cred12[5:9], cred12[9:], 12); len(got) != 28 || err != nil {
		t.Errorf("heard %q, %v", got, err)
	}
	accept(t, l)
}

func TestListenRefuses(t *testing.T) {
	l := listener(t)
	wrong, secret := client(t, l.Addr())
	begin := time.Now()
	if got, err := play(wrong, "0123456789abcdef", 1); len(got) > 0 || err == nil {
		t.Errorf("heard %q", got)
	}
	if d := time.Since(begin); d > 3*time.Second { // nothing like the time to say it
		t.Errorf("a wrong secret was refused after %v", d)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := os.Lstat(l.Addr()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file stays: %v", err)
	}
	if len(secret) != 16 {
		t.Errorf("a secret of %d bytes", len(secret))
	}
}

func TestListenTaken(t *testing.T) {
	l := listener(t)
	if other, err := Listen(l.Addr(), Options{UID: -1, GID: -1}); !errors.Is(err, errno.EADDRINUSE) {
		t.Errorf("a live one: %v, %v", other, err)
	}
	if conn, err := Dial(t.Context(), l.Addr()); err != nil {
		t.Errorf("afterwards: %v", err)
	} else {
		_ = conn.Close()
	}
}
