package daemon_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// stage has a session with a connection each way and a listener.
func stage(t *testing.T) (s *site, guest, host *rig.Probe) {
	s = newSite(t)
	host = s.far()
	all(host, "socket 5 stream", "bind 5 h", "listen 5 9")
	s.do("up", "--wait")
	guest = s.probe()
	all(guest, "umask 0", "socket 5 stream", "connect 5 h", "socket 6 stream", "bind 6 n", "listen 6 5")
	host.Want("ok len=2", "accept 5 6")
	all(host, "socket 7 stream", "connect 7 n")
	guest.Want("ok len=2", "accept 6 7")
	both(guest, host, "5", "6")
	both(guest, host, "7", "7")
	return s, guest, host
}

// both sends a byte each way.
func both(guest, host *rig.Probe, g, h string) {
	guest.Want("ok 1", "send %s x", g)
	host.Want("ok 1 x", "recv %s 9", h)
	host.Want("ok 1", "send %s y", h)
	guest.Want("ok 1 y", "recv %s 9", g)
}

// back wants connections in both directions to work again.
func back(t *testing.T, guest, host *rig.Probe) {
	t.Helper()
	until(t, "the host reaches the guest's listener", func() bool {
		host.Want("ok", "socket 8 stream nonblock")
		return host.Do("connect 8 n") == "ok"
	})
	guest.Want("ok len=2", "accept 6 9")
	host.Want("ok 1", "send 8 z")
	guest.Want("ok 1 z", "recv 9 4")
	until(t, "the guest reaches the host's listener", func() bool {
		guest.Want("ok", "socket 8 stream")
		return guest.Do("connect 8 h") == "ok"
	})
	host.Want("ok len=2", "accept 5 9")
	both(guest, host, "8", "9")
}

// TestSessionStatus counts what a session has.
func TestSessionStatus(t *testing.T) {
	t.Parallel()
	s, guest, _ := stage(t)
	st := s.status()
	if len(st.Sessions) != 1 {
		t.Fatalf("sessions %+v", st.Sessions)
	}
	got := st.Sessions[0]
	if got.Streams != 2 || got.Listeners != 1 || got.PID == 0 || len(st.Links) != 1 || st.Links[0].Streams < 3 {
		t.Errorf("session %+v, link %+v", got, st.Links[0])
	}
	guest.End()
	until(t, "the session is over", func() bool { return len(s.status().Sessions) == 0 })
}

// TestKilledAgent has the link lost under a session: its connections fail at
// once, and its listener comes back.
func TestKilledAgent(t *testing.T) {
	t.Parallel()
	s, guest, host := stage(t)
	for _, p := range s.Parts()["agent"] { // the link's process may be a shell
		kill(t, p)
	}
	start := time.Now()
	for _, fd := range []int{5, 7} {
		if got := guest.Do("recv %d 9", fd); got != "ECONNRESET" {
			t.Errorf("a connection of the lost link: %s, want ECONNRESET", got)
		}
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("the connections took %v to fail", d)
	}
	back(t, guest, host)
	if st := s.status(); len(st.Sessions) != 1 || st.Links[0].LastError == nil {
		t.Errorf("status %+v", st)
	}
}

// TestKilledDaemon has the daemon killed: programs get ECONNRESET, the socket
// that it left is replaced, and the run has its listener back by the next one,
// which it starts itself.
func TestKilledDaemon(t *testing.T) {
	t.Parallel()
	s, guest, host := stage(t)
	old, agents := s.status().Daemon.PID, s.Parts()["agent"]
	kill(t, old)
	for _, fd := range []int{5, 7} {
		if got := guest.Do("recv %d 9", fd); got != "ECONNRESET" {
			t.Errorf("a connection of the killed daemon: %s, want ECONNRESET", got)
		}
	}
	until(t, "the agents are gone, which listened to the end", func() bool {
		return !slices.ContainsFunc(s.Parts()["agent"], func(p int) bool { return slices.Contains(agents, p) })
	})
	back(t, guest, host)
	st := s.status()
	if st.Daemon.PID == old || st.Daemon.Stays {
		t.Errorf("daemon %+v", st.Daemon)
	}
	until(t, "one daemon is left", func() bool { return len(s.Parts()["daemon"]) == 1 })
	// It belongs to nobody's run: it goes on when this one's processes are killed.
	for _, p := range s.Parts()["supervisor"] {
		kill(t, p)
	}
	guest.End()
	time.Sleep(100 * time.Millisecond)
	if got := s.status().Daemon.PID; got != st.Daemon.PID {
		t.Errorf("daemon %d, want %d still", got, st.Daemon.PID)
	}
	s.do("run", "--", "true")
}

// TestKilledSupervisor leaves nothing of a session.
func TestKilledSupervisor(t *testing.T) {
	t.Parallel()
	s, guest, host := stage(t)
	for _, p := range s.Parts()["supervisor"] {
		kill(t, p)
	}
	guest.End()
	until(t, "the session is over", func() bool {
		st := s.status()
		return len(st.Sessions) == 0 && st.Links[0].Streams == 0
	})
	until(t, "the host's socket file is gone", func() bool {
		_, err := os.Lstat(filepath.Join(s.Host, "n"))
		return os.IsNotExist(err)
	})
	for _, fd := range []int{6, 7} {
		if got := host.Do("recv %d 9", fd); got != "ok 0" && got != "ECONNRESET" {
			t.Errorf("the host's end of a connection: %s", got)
		}
	}
}

// TestDown ends connections and removes what was made, in time, and runs go on
// with the next daemon.
func TestDown(t *testing.T) {
	t.Parallel()
	s, guest, host := stage(t)
	agents := s.Parts()["agent"]
	start := time.Now()
	s.do("down")
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("down took %v", d)
	}
	for _, p := range agents {
		if unix.Kill(p, 0) == nil {
			t.Error("the agent outlives the daemon")
		}
	}
	for _, fd := range []int{5, 7} {
		if got := guest.Do("recv %d 9", fd); got != "ECONNRESET" {
			t.Errorf("a connection: %s, want ECONNRESET", got)
		}
	}
	s.do("up")
	back(t, guest, host)
}

// TestOtherAgent keeps a run from going on with an agent that it did not begin
// with.
func TestOtherAgent(t *testing.T) {
	t.Parallel()
	s, guest, host := stage(t)
	s.do("down")
	if got := guest.Do("recv 5 9"); got != "ECONNRESET" {
		t.Errorf("a connection: %s", got)
	}
	other := filepath.Join(s.dir, "other")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	// The run itself may have started one again, with the configuration.
	until(t, "a daemon with another agent", func() bool {
		_, _ = s.try("down")
		_, code := s.try("up", "--embed", "C="+other)
		return code == 0
	})
	guest.Want("ok", "socket 8 stream")
	if got := guest.Do("connect 8 h"); got != "ECONNREFUSED" {
		t.Errorf("connect by another agent: %s, want ECONNREFUSED", got)
	}
	s.do("down")
	s.do("up")
	back(t, guest, host)
}

// TestReload reads the configuration again under a live session.
func TestReload(t *testing.T) {
	t.Parallel()
	s, guest, host := stage(t)
	sock := filepath.Join(s.dir, "fwd.sock")
	forward := fmt.Sprintf("[[forward]]\nname = \"one\"\nlisten = %q\nconnect = %q\n", sock, `C:\h`)
	for _, how := range []string{"add", "break", "mend", "remove"} {
		switch how {
		case "add", "mend":
			s.configure(forward)
		case "break":
			s.configure(forward + "nosuch = 1\n")
		case "remove":
			s.configure("")
		}
		if err := unix.Kill(s.status().Daemon.PID, unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		until(t, how, func() bool {
			st := s.status()
			return (st.Daemon.ConfigError != "") == (how == "break") && (len(st.Forwards) == 1) == (how != "remove")
		})
		both(guest, host, "5", "6")
		both(guest, host, "7", "7")
		if how == "remove" {
			until(t, "the forward's socket is gone", func() bool { _, err := os.Lstat(sock); return os.IsNotExist(err) })
			continue
		}
		if how == "break" {
			continue
		}
		// The forward works, and its connection is not dropped by what follows.
		all(host, "socket 9 stream")
		native := rig.StartProbe(t, s.OnHost(rig.ProbeProgram(t)))
		all(native, "socket 3 stream", "connect 3 "+sock)
		host.Want("ok len=2", "accept 5 10")
		both(native, host, "3", "10")
		native.End()
		host.Want("ok 0", "recv 10 9")
		host.Want("ok", "close 10")
		host.Want("ok", "close 9")
	}
}

// TestIdle ends a daemon that was started on demand, and not under a session.
func TestIdle(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	rig.ProbeProgram(t) // which may take a while to build
	cmd := s.command("daemon", "--on-demand", "--idle", "3s")
	log := lines(t, cmd)
	until(t, "the daemon runs", func() bool {
		_, code := s.try("status")
		return code == 0
	})
	guest := s.probe()
	guest.Want("ok", "socket 3 stream")
	time.Sleep(4 * time.Second)
	if st := s.status(); st.Daemon.PID != cmd.Process.Pid {
		t.Errorf("it ended under a session, and %d came", st.Daemon.PID)
	}
	guest.End()
	ended := ""
	for l := range log {
		ended = l
	}
	if want := `drvsock: daemon ends reason="nobody needs it"`; ended != want {
		t.Errorf("its last word: %q, want %q", ended, want)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestRemovedSocket has somebody clean up the daemon's folder: without the socket it
// is asked by another one, under a session that goes on; without the folder it ends,
// and the next command has a daemon again.
func TestRemovedSocket(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cmd := s.command("daemon", "--idle", "200ms")
	log := lines(t, cmd)
	asked := func() bool { _, code := s.try("status"); return code == 0 }
	until(t, "the daemon runs", asked)
	guest := s.probe()
	guest.Want("ok", "socket 3 stream")
	for range 3 {
		if err := os.Remove(s.socket()); err != nil {
			t.Fatal(err)
		}
		until(t, "the daemon is asked again", asked)
	}
	all(guest, "bind 3 x", "listen 3 1", "close 3", "unlink x")
	if st := s.status(); st.Daemon.PID != cmd.Process.Pid || len(st.Sessions) != 1 {
		t.Errorf("status: %+v", st)
	}
	guest.End()
	if err := os.RemoveAll(filepath.Dir(s.socket())); err != nil {
		t.Fatal(err)
	}
	ended := ""
	for l := range log {
		ended = l
	}
	if want := fmt.Sprintf("drvsock: daemon ends reason=%q", filepath.Dir(s.socket())+" was removed"); ended != want {
		t.Errorf("its last word: %q, want %q", ended, want)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	s.do("up")
}

// TestLeaks counts the daemon's descriptors and threads over many runs.
func TestLeaks(t *testing.T) {
	s, guest, host := stage(t)
	_ = host
	defer guest.End()
	pid := s.status().Daemon.PID
	count := func(what string) int {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", pid, what))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	once := func() {
		p := s.probe()
		all(p, "umask 0", "socket 3 stream", "connect 3 h", "socket 4 stream", "bind 4 x", "listen 4 1", "close 4", "unlink x")
		host.Want("ok len=2", "accept 5 10")
		host.Want("ok", "close 10")
		p.End()
	}
	for range 3 {
		once()
	}
	until(t, "the sessions are over", func() bool { return len(s.status().Sessions) == 1 })
	fds, tasks := count("fd"), count("task")
	for range 15 {
		once()
	}
	until(t, "the descriptors are as many as before", func() bool { return count("fd") <= fds })
	if now := count("task"); now > tasks+8 {
		t.Errorf("%d threads, %d before", now, tasks)
	}
}
