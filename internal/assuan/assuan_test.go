package assuan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"drvsock/internal/errno"
)

const nonce = "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"

// speak reads n bytes and sends s, with a bound.
func speak(t *testing.T, c net.Conn, n int, s string) string {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Errorf("read of %d bytes: %v", n, err)
	}
	if _, err := io.WriteString(c, s); err != nil {
		t.Errorf("write: %v", err)
	}
	return string(b)
}

// The bytes of a server like GnuPG's, and files written here by hand.
func TestDial(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	path := filepath.Join(t.TempDir(), "S.gpg-agent")
	for _, text := range []string{
		fmt.Sprintf("%d\n%s", port, nonce),
		fmt.Sprintf("!<socket >%d s 03020100-07060504-0b0a0908-0f0e0d0c\x00", port), // as gpg-agent answers it: not
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil { // anew, as by a restart
			t.Fatal(err)
		}
		conn, err := Dial(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got := speak(t, server, 16, "OK Pleased to meet you\n"); got != nonce {
			t.Errorf("%q: the server heard %q", text, got)
		}
		if got := speak(t, conn, 23, "BYE\n"); got != "OK Pleased to meet you\n" {
			t.Errorf("%q: greeting %q", text, got)
		}
		if err := conn.CloseWrite(); err != nil {
			t.Error(err)
		}
		if b, err := io.ReadAll(server); string(b) != "BYE\n" || err != nil {
			t.Errorf("%q: the server heard %q, %v", text, b, err)
		}
		if _, ok := conn.(*net.TCPConn); !ok {
			t.Errorf("a %T", conn)
		}
		_ = conn.Close()
		_ = server.Close()
	}
	_ = l.Close()
	if conn, err := Dial(t.Context(), path); !errors.Is(errno.FromSystem(err, errno.LayerHost), errno.ECONNREFUSED) {
		t.Errorf("a stale one: %v, %v", conn, err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if conn, err := Dial(over, path); !errors.Is(err, context.Canceled) {
		t.Errorf("with ctx over: %v, %v", conn, err)
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "S.gpg-agent")
	l, err := Listen(path, Options{UID: -1, GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	late := time.AfterFunc(20*time.Second, func() { _ = l.Close() })
	defer late.Stop()

	// By hand, in pieces.
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	line, secret, found := bytes.Cut(b, []byte("\n"))
	if !found || len(secret) != 16 {
		t.Fatalf("the file is %q", b)
	}
	conn, err := net.Dial("tcp4", "127.0.0.1:"+string(line))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, s := range []string{string(secret[:1]), string(secret[1:9]), string(secret[9:]) + "hello"} {
		speak(t, conn, 0, s)
	}
	server, _, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got := speak(t, server, 5, "bye"); got != "hello" {
		t.Errorf("heard %q", got)
	}
	if got := speak(t, conn, 3, ""); got != "bye" {
		t.Errorf("heard back %q", got)
	}
	_ = server.Close()

	// By Dial.
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	server, caller, err := l.Accept()
	if err != nil || caller.PID != 0 {
		t.Fatalf("%+v, %v", caller, err)
	}
	_ = server.Close()

	if l.Addr() != path {
		t.Errorf("address %s", l.Addr())
	}
	if other, err := Listen(path, Options{UID: -1, GID: -1}); !errors.Is(err, errno.EADDRINUSE) {
		t.Errorf("a second listener: %v, %v", other, err)
	}
}
