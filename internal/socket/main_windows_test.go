package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/windows"

	"drvsock/internal/afunix"
	"drvsock/internal/endpoint"
	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// roleVar says what a copy of the test binary plays.
const roleVar = "DRVSOCK_SOCKET_TEST"

var underWine = windows.NewLazySystemDLL("ntdll.dll").NewProc("wine_get_version").Find() == nil

func init() {
	// Under Wine there are sockets only by a stand-in for Winsock.
	if underWine {
		isSocket = func(file string) bool {
			return afunix.KindOf(file) == afunix.KindFile && strings.HasSuffix(file, ".sock")
		}
	}
}

func play(args []string) bool {
	n := endpoint.Name{Network: wire.NetPipe}
	switch os.Getenv(roleVar) {
	case "dial": // until stdin ends
		n.Path = args[1]
		c, err := Dial(context.Background(), n)
		fmt.Println(err)
		_, _ = io.Copy(io.Discard, os.Stdin)
		if err == nil {
			_ = c.Close()
		}
	case "listen":
		n.Path = args[1]
		l, err := Listen(n, plain())
		fmt.Println(err)
		if err == nil {
			go func() {
				for {
					c, _, err := l.Accept()
					if err != nil {
						return
					}
					_ = c.Close()
				}
			}()
		}
		_, _ = io.Copy(io.Discard, os.Stdin)
	default:
		return false
	}
	return true
}

// child starts a copy of the test binary in a role, which says nil if it did
// what it was to. end ends it.
func child(t testing.TB, role string, args ...string) (cmd *exec.Cmd, end func()) {
	t.Helper()
	exe, err := os.Executable()
	check(t, err)
	cmd = exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), roleVar+"="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	buf := make([]byte, 100)
	k, _ := out.Read(buf)
	if got := strings.TrimSpace(string(buf[:k])); got != "<nil>" {
		t.Errorf("%s: %s", role, got)
	}
	return cmd, func() {
		_ = in.Close()
		_ = cmd.Wait()
	}
}

func plain() Options { return Options{UID: -1, GID: -1} }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func refused(t testing.TB, err error, want errno.Errno, words ...string) {
	t.Helper()
	e := errno.FromSystem(err, errno.LayerHost)
	if e == nil || e.Errno != want {
		t.Errorf("%v, want %v", err, want)
		return
	}
	for _, w := range words {
		if !strings.Contains(e.Text, w) {
			t.Errorf("%q doesn't say %q", e.Text, w)
		}
	}
}

func dial(t testing.TB, n endpoint.Name) Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := Dial(ctx, n)
	check(t, err)
	return c
}

// echo serves l until it is closed and tells who came.
func echo(l Listener) <-chan Peer {
	peers := make(chan Peer, 100)
	go func() {
		for {
			c, peer, err := l.Accept()
			if err != nil {
				close(peers)
				return
			}
			peers <- peer
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.CloseWrite()
				_ = c.Close()
			}()
		}
	}()
	return peers
}

// converse sends text, half-closes and expects it back.
func converse(t testing.TB, c Conn, text string) {
	t.Helper()
	defer c.Close()
	wrote := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, text)
		wrote <- errors.Join(err, c.CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err := errors.Join(err, <-wrote); err != nil || string(got) != text {
		t.Errorf("%d bytes back of %d: %v", len(got), len(text), err)
	}
}
