package assuan

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
)

// gpgHome makes an agent of GnuPG's in a folder of its own, by redirection files as
// a home on a network drive has them, and ends it.
func gpgHome(t *testing.T) (home, sock string) {
	t.Helper()
	for _, program := range []string{"gpg-agent", "gpg-connect-agent"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	// A short path: a socket's name has 107 bytes.
	home, err := os.MkdirTemp("/tmp", "gpg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	run := filepath.Join(home, "run")
	if err := os.Mkdir(run, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GNUPGHOME", home)
	t.Setenv("DRVSOCK_TEST_RUN", run)
	for _, name := range []string{"S.gpg-agent", "S.gpg-agent.extra", "S.gpg-agent.browser", "S.gpg-agent.ssh"} {
		text := "%Assuan%\nsocket=${DRVSOCK_TEST_RUN}/" + name + "\n"
		if err := os.WriteFile(filepath.Join(home, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return home, filepath.Join(home, "S.gpg-agent")
}

// session greets, asks and says goodbye.
func session(t *testing.T, path string) error {
	t.Helper()
	conn, err := Dial(t.Context(), path)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, ok := conn.(*net.UnixConn); !ok {
		t.Errorf("a %T", conn)
	}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(conn)
	if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "OK ") {
		return fmt.Errorf("greeting %q: %w", line, err)
	}
	if _, err := io.WriteString(conn, "GETINFO version\n"); err != nil {
		return err
	}
	if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "D 2.") {
		return fmt.Errorf("version %q: %w", line, err)
	}
	return nil
}

// GnuPG's own agent listens where the redirection file says, and both GnuPG's
// client and Dial find it by that file.
func TestRealAgent(t *testing.T) {
	home, sock := gpgHome(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	agent := exec.CommandContext(ctx, "gpg-agent", "--homedir", home, "--daemon", "--", "cat")
	in, err := agent.StdinPipe() // it ends soon after the program that it runs
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("gpg-connect-agent", "--homedir", home, "--no-autostart", "KILLAGENT", "/bye").Run()
		_ = in.Close()
		_ = agent.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err = session(t, sock)
		if err == nil || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(sock); err != nil || !st.Mode().IsRegular() {
		t.Errorf("the agent has replaced the redirection: %v, %v", st, err)
	}
	if err := session(t, filepath.Join(home, "run", "S.gpg-agent")); err != nil {
		t.Errorf("by the socket itself: %v", err)
	}
	out, err := exec.CommandContext(ctx, "gpg-connect-agent", "--homedir", home, "--no-autostart", "GETINFO version", "/bye").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "OK") {
		t.Errorf("GnuPG's client by the same file: %v\n%s", err, out)
	}
}

// A redirection that this test wrote leads GnuPG's own client here, so that its
// form is right by libassuan's reading too.
func TestRealClient(t *testing.T) {
	home, sock := gpgHome(t)
	l, err := net.Listen("unix", filepath.Join(home, "run", "S.gpg-agent"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	client := exec.CommandContext(ctx, "gpg-connect-agent", "--homedir", home, "--no-autostart", "GETINFO pid", "/bye")
	served := make(chan string, 1)
	go func() {
		defer close(served)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(c, "OK here\n")
		r := bufio.NewReader(c)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if line == "GETINFO pid\n" {
				served <- line
				_, _ = io.WriteString(c, "D 4242\n")
			}
			_, _ = io.WriteString(c, "OK\n")
		}
	}()
	out, err := client.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "D 4242") {
		t.Errorf("%v\n%s", err, out)
	}
	_ = l.Close()
	if _, ok := <-served; !ok {
		t.Error("GnuPG's client didn't come by the redirection")
	}
	if conn, err := Dial(t.Context(), sock); err == nil {
		_ = conn.Close()
		t.Error("connected to a closed socket")
	}
}

// A full backlog is waited for, as connect(2) does, until ctx ends.
func TestFullBacklog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	first, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if conn, err := Dial(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v, %v", conn, err)
	}
	go func() {
		time.Sleep(30 * time.Millisecond)
		if n, _, err := unix.Accept(fd); err == nil {
			_ = unix.Close(n)
		}
	}()
	second, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatalf("with room again: %v", errno.FromSystem(err, errno.LayerHost))
	}
	_ = second.Close()
}
