package daemon_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// TestTwoStarters has many begin at once: one daemon comes of it.
func TestTwoStarters(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for round := range 3 {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				args := []string{"up"}
				if i%2 == 1 {
					args = []string{"run", "--", "true"}
				}
				if out, code := s.try(args...); code != 0 {
					t.Errorf("round %d: drvsock %q: exit code %d: %s", round, args, code, out)
				}
			})
		}
		wg.Wait()
		until(t, "one daemon is left of those that were started", func() bool { return len(s.Parts()["daemon"]) <= 1 })
		s.status()
		switch round {
		case 0:
			kill(t, s.status().Daemon.PID) // and the socket stays
		default:
			s.do("down")
		}
	}
}

// TestForeignFolder refuses a runtime folder of another user's.
func TestForeignFolder(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root for another account")
	}
	s := newSite(t)
	dir := filepath.Join(s.dir, "run/drvsock")
	for _, err := range []error{os.Mkdir(dir, 0o700), os.Chown(dir, rig.Other, rig.Other)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"up"}, {"status"}, {"down"}, {"run", "--", "true"}} {
		out, code := s.try(args...)
		if code == 0 || !strings.Contains(out, fmt.Sprintf("belongs to user %d, not to user 0", rig.Other)) {
			t.Errorf("drvsock %q: exit code %d: %s", args, code, out)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("%d files were made in it", len(left))
	}
	t.Cleanup(func() { _ = os.Chown(dir, 0, 0) })
	// Under an account whose own folder can't be used there is the one in TMPDIR,
	// where somebody may have been first.
	tmp := filepath.Join(s.dir, "tmp")
	mine := filepath.Join(tmp, fmt.Sprintf("drvsock-%d", rig.User))
	for _, err := range []error{os.Mkdir(tmp, 0o700), os.Chmod(tmp, 0o1777), os.Mkdir(mine, 0o777), os.Chmod(mine, 0o777)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := s.command("up")
	cmd.Env = append(cmd.Env, "TMPDIR="+tmp)
	cmd.Dir = "/"
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: rig.User, Gid: rig.User}
	cmd.Stderr = nil
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "belongs to user 0, not to user 44001") {
		t.Errorf("a folder that was there before: %v: %s", err, out)
	}
}

// TestStrangersDaemon has another user ask: it gets a daemon of its own, and
// nothing of ours.
func TestStrangersDaemon(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root for another account")
	}
	s := newSite(t)
	s.do("up")
	cmd := s.command("status")
	cmd.Dir, cmd.Stderr = "/", nil
	cmd.Env = append(cmd.Env, "TMPDIR="+s.dir)
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: rig.User, Gid: rig.User}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "no daemon runs") {
		t.Errorf("status by another user: %v: %s", err, out)
	}
	// Were the ways open, who it is would still keep it out.
	for path, mode := range map[string]os.FileMode{
		filepath.Join(s.dir, "run"): 0o755, filepath.Dir(s.socket()): 0o755, s.socket(): 0o666,
	} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	cmd = s.As(rig.User, "/", rig.ProbeProgram(t))
	p := rig.StartProbe(t, cmd)
	p.Want("ok", "socket 3 stream")
	p.Want("ok", "connect 3 %s", s.socket())
	if got := p.Do("recv 3 9"); got != "ok 0" && got != "ECONNRESET" {
		t.Errorf("another user's connection: %s, want it closed", got)
	}
	log, err := os.ReadFile(filepath.Join(s.dir, "run/drvsock/daemon.log"))
	if err != nil || !strings.Contains(string(log), fmt.Sprintf("control connection refused uid=%d", rig.User)) {
		t.Errorf("the log: %v\n%s", err, log)
	}
	if err := os.Chmod(filepath.Join(s.dir, "run/drvsock"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(s.dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
}

// TestActivation has a service manager make the socket.
func TestActivation(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if err := os.Mkdir(filepath.Dir(s.socket()), 0o700); err != nil {
		t.Fatal(err)
	}
	managers := filepath.Join(filepath.Dir(s.socket()), "manager.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: managers})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Link(managers, s.socket()); err != nil {
		t.Fatal(err)
	}
	file, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	_ = ln.Close()
	// The pid in the environment is that of the process that the shell becomes.
	cmd := s.As(0, s.View, "/bin/sh", "-c", "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=control exec "+s.Bin+" daemon")
	cmd.Env = append(cmd.Env, s.env...)
	cmd.ExtraFiles = []*os.File{file}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = file.Close()
	if st := s.status(); st.Daemon.PID != cmd.Process.Pid || st.Daemon.Log != "" || !st.Daemon.Stays || st.Daemon.Socket != managers {
		t.Errorf("status %+v, want process %d", st.Daemon, cmd.Process.Pid)
	}
	// The variables were for the daemon alone, and its agent has no copy.
	s.do("up", "--wait")
	for _, pid := range s.Parts()["agent"] {
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if strings.Contains(string(env), "LISTEN_") {
			t.Error("the agent has the variables")
		}
	}
	s.do("run", "--", "true")
	s.do("down")
	_ = cmd.Wait()
	if _, err := os.Lstat(s.socket()); err != nil {
		t.Errorf("the manager's socket: %v", err)
	}
	// What is passed and is no listening socket is refused.
	bad := exec.Command("/bin/sh", "-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec "+s.Bin+" daemon 3</dev/null")
	bad.Env = append(os.Environ(), s.env...)
	if out, err := bad.CombinedOutput(); err == nil || !strings.Contains(string(out), "the socket that was passed as LISTEN_FD_3") {
		t.Errorf("no socket: %v: %s", err, out)
	}
}

// TestNotify tells a service manager of everything that it asks to know.
func TestNotify(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	path := filepath.Join(s.dir, "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	want := func(prefixes ...string) {
		t.Helper()
		b := make([]byte, 4096)
		_ = c.SetReadDeadline(time.Now().Add(within))
		n, err := c.Read(b)
		if err != nil {
			t.Fatalf("want %q: %v", prefixes, err)
		}
		got := strings.Split(string(b[:n]), "\n")
		if len(got) != len(prefixes) {
			t.Errorf("got %q, want %q", got, prefixes)
			return
		}
		for i, p := range prefixes {
			if !strings.HasPrefix(got[i], p) {
				t.Errorf("got %q, want %q", got, prefixes)
			}
		}
	}
	cmd := s.command("daemon")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	want("READY=1", "STATUS=0 of 1 links up, 0 forwards, 0 mounts, 0 sessions")
	s.do("run", "--", "true")
	want("STATUS=1 of 1 links up, 0 forwards, 0 mounts, 1 sessions")
	want("STATUS=1 of 1 links up, 0 forwards, 0 mounts, 0 sessions")
	for _, pid := range s.Parts()["agent"] {
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if strings.Contains(string(env), "NOTIFY_SOCKET") {
			t.Error("the agent has the variable")
		}
	}
	if err := cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	want("RELOADING=1", "MONOTONIC_USEC=")
	want("READY=1", "STATUS=")
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	want("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	// A daemon that a service starts on its way is not the service.
	cmd = s.command("up")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+path)
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	s.do("down")
	_ = c.SetReadDeadline(time.Now().Add(time.Millisecond)) // what it said is there by now
	b := make([]byte, 4096)
	if n, err := c.Read(b); err == nil {
		t.Errorf("a daemon in the background said %q", b[:n])
	}
}
