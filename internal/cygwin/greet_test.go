package cygwin

import (
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

// A server is played by a list of steps, written down from Cygwin's and
// libassuan's source and not by this package's code: a number n reads n bytes, a
// string is sent.
func play(c net.Conn, steps ...any) (heard []byte, err error) {
	for _, s := range steps {
		switch s := s.(type) {
		case int:
			b := make([]byte, s)
			n, err := io.ReadFull(c, b)
			heard = append(heard, b[:n]...)
			if err != nil {
				return heard, err
			}
		case string:
			if _, err := io.WriteString(c, s); err != nil {
				return heard, err
			}
		}
	}
	return heard, nil
}

const (
	wireSecret = "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"
	cred12     = "\x34\x12\x00\x00\xe8\x03\x03\x00\x01\x02\x03\x00" // pid 0x1234, uid 197608
	cred8      = "\x34\x12\x00\x00\x00\x00\x00\x00"
)

// serveOnce plays a server with steps and returns the file of its socket and, later,
// what it heard.
func serveOnce(t *testing.T, steps ...any) (string, <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan string, 1)
	go func() {
		defer l.Close()
		defer close(heard)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		b, _ := play(c, steps...)
		heard <- string(b)
	}()
	path := filepath.Join(t.TempDir(), "sock")
	file := fmt.Sprintf("!<socket >%d s 03020100-07060504-0b0a0908-0f0e0d0c\x00", l.Addr().(*net.TCPAddr).Port)
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, heard
}

func ownCred(n int) string {
	pid := os.Getpid()
	return string([]byte{byte(pid), byte(pid >> 8), byte(pid >> 16), byte(pid >> 24), 0, 0, 0, 0, 0, 0, 0, 0}[:n])
}

func TestDial(t *testing.T) {
	dialFile := func(ctx context.Context, path string) (*net.TCPConn, error) {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		f, err := Parse(b)
		if err != nil {
			return nil, err
		}
		return f.DialGnuPG(ctx, path)
	}
	strict := []any{16, wireSecret, 12, cred12}
	data := []any{"hello", 3}
	for _, c := range []struct {
		name  string
		dial  func(context.Context, string) (*net.TCPConn, error)
		steps []any
		heard string
	}{
		{"Cygwin", Dial, strict, wireSecret + ownCred(12)},
		{"Cygwin where GnuPG may be", dialFile, strict, wireSecret + ownCred(12)},
		{"libassuan with short credentials", dialFile, []any{16, wireSecret, 8, cred8}, wireSecret + ownCred(8)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path, heard := serveOnce(t, append(c.steps, data...)...)
			conn, err := c.dial(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			got, err := play(conn, 5, "bye")
			if string(got) != "hello" || err != nil {
				t.Errorf("the data are %q, %v", got, err)
			}
			if h := <-heard; h != c.heard+"bye" {
				t.Errorf("the server heard %q, want %q", h, c.heard+"bye")
			}
		})
	}
	t.Run("gpg-agent, which reads the secret alone", func(t *testing.T) {
		t.Parallel()
		path, heard := serveOnce(t, 16, 3, "hello")
		conn, err := dialFile(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		got, err := play(conn, "bye", 5)
		if h := <-heard; string(got) != "hello" || err != nil || h != wireSecret+"bye" {
			t.Errorf("got %q, %v, the server heard %q", got, err, h)
		}
	})
}

func TestDialRefused(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps []any
	}{
		{"closed at once", []any{16}},
		{"another secret", []any{16, "0123456789abcdef", 12}},
		{"a greeting of another kind", []any{"SSH-2.0-OpenSSH_9.9\r\n", 16}},
		{"closed before its credentials", []any{16, wireSecret, 12}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path, _ := serveOnce(t, c.steps...)
			if conn, err := Dial(t.Context(), path); !errors.Is(err, errno.ECONNREFUSED) {
				t.Errorf("%v, %v", conn, err)
			}
		})
	}
	t.Run("silence", func(t *testing.T) {
		t.Parallel()
		path, _ := serveOnce(t, 16, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if conn, err := Dial(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, %v", conn, err)
		}
	})
	t.Run("files", func(t *testing.T) {
		dir := t.TempDir()
		for name, want := range map[string]errno.Errno{"missing": errno.ENOENT, "text": errno.ECONNREFUSED, "": errno.ECONNREFUSED} {
			if name == "text" {
				if err := os.WriteFile(filepath.Join(dir, name), []byte("hello"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			conn, err := Dial(t.Context(), filepath.Join(dir, name))
			if got := errno.FromSystem(err, errno.LayerHost); !errors.Is(got, want) {
				t.Errorf("%q: %v, %v", name, conn, err)
			}
		}
	})
}
