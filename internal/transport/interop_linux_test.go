package transport

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestInterop has sockets of sessions that live and of some that are over.
func TestInterop(t *testing.T) {
	dir := t.TempDir()
	sock := func(name string, live bool, age time.Duration) string {
		path := filepath.Join(dir, name)
		_ = os.Remove(path)
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		if live {
			t.Cleanup(func() { _ = l.Close() })
		} else {
			_ = l.Close()
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
		return path
	}
	want := func(when, old, want string) {
		t.Helper()
		if got := interop(old, dir); got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	want("nothing there", "", "")
	gone := filepath.Join(dir, "7_interop")
	want("what the variable names isn't there", gone, "")
	dead := sock("9_interop", false, 0)
	want("its session is over", dead, "")
	older := sock("20_interop", true, time.Hour)
	newer := sock("10_interop", true, time.Minute)
	want("the newest that lives", dead, newer)
	want("the variable's own", older, older)
	elsewhere := sock("other", true, 0)
	want("the variable's own, of another name", elsewhere, elsewhere)
	init := sock("1_interop", true, 2*time.Hour)
	want("init's before others", gone, init)
	want("the variable's before init's", newer, newer)
	sock("1_interop", false, 0)
	want("init's is dead", gone, newer)
	if os.Geteuid() != 0 {
		return // a socket of another user's can't be had
	}
	planted := sock("30_interop", true, 0)
	if err := os.Chown(planted, 44001, 44001); err != nil {
		t.Fatal(err)
	}
	want("another user's, and the newest", gone, newer)
	want("another user's at the name that the variable has", planted, newer)
	if err := os.Symlink(planted, filepath.Join(dir, "31_interop")); err != nil {
		t.Fatal(err)
	}
	want("a link to another user's", filepath.Join(dir, "31_interop"), newer)
	if err := os.Chown(sock("1_interop", true, 0), 44001, 44001); err != nil {
		t.Fatal(err)
	}
	want("another user's at init's name", gone, newer)
}

// TestInteropAsksNothing wants a session's server not to notice that it was
// looked for.
func TestInteropAsksNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "1_interop")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if !lives(path) {
		t.Fatal("it lives")
	}
	_ = l.SetDeadline(time.Now().Add(50 * time.Millisecond))
	if c, err := l.Accept(); err == nil {
		_ = c.Close()
		t.Error("a connection was made")
	}
}

// TestEnvironment wants the variable set for what may be a Windows program, and
// only there.
func TestEnvironment(t *testing.T) {
	dir := t.TempDir()
	live := filepath.Join(dir, "1_interop")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: live})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	windows, script := filepath.Join(dir, "drvsock.exe"), filepath.Join(dir, "script")
	for file, text := range map[string]string{windows: "MZ\x90\x00", script: "#!/bin/sh\n"} {
		if err := os.WriteFile(file, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	const dead = "WSL_INTEROP=/none/8_interop"
	cases := []struct {
		name   string
		argv   []string
		folder string
		env    []string
		want   []string
	}{
		{"Windows program", []string{windows}, dir, []string{"A=b", dead}, []string{"A=b", "WSL_INTEROP=" + live}},
		{"shell", []string{"/bin/sh", "-c", "drvsock.exe agent"}, dir, []string{dead, "A=b"}, []string{"A=b", "WSL_INTEROP=" + live}},
		{"unset", []string{windows}, dir, nil, []string{"WSL_INTEROP=" + live}},
		{"Linux program", []string{script}, dir, []string{dead}, []string{dead}},
		{"no WSL", []string{windows}, filepath.Join(dir, "none"), []string{dead}, []string{dead}},
		{"none lives", []string{windows}, t.TempDir(), []string{dead, "A=b"}, []string{"A=b"}},
		{"the service manager's words", []string{script}, dir, []string{"NOTIFY_SOCKET=/x", "LISTEN_FDS=1", "LISTEN_PID=2", "LISTEN_FDNAMES=a", "A=b"}, []string{"A=b"}},
	}
	for _, c := range cases {
		got := (&Command{Argv: c.argv, Interop: c.folder}).environment(c.env)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestInteropEachTime has the session end between two links.
func TestInteropEachTime(t *testing.T) {
	dir := t.TempDir()
	c := &Command{Argv: []string{"/bin/sh", "-c", "exec " + strings.Join(self(t), " ")}, Starter: Children(), Log: quiet, Interop: dir}
	for _, name := range []string{"1_interop", "5_interop"} {
		path := filepath.Join(dir, name)
		s, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		l, err := c.Dial(t.Context(), guest())
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Peer().Build; got != path {
			t.Errorf("the agent has WSL_INTEROP=%q, want %q", got, path)
		}
		l.End()
		_ = s.Close()
	}
}
