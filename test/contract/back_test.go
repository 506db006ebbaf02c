//go:build linux

package contract

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// backRig is a rig whose agent begins with the shell's before, a format that may name
// the folder of the rig's own files; its guest has a socket 5 connected to the host's,
// which tells when the link is lost.
func backRig(t *testing.T, before string) (r *rig.Rig, host, guest *rig.Probe, dir string) {
	dir = rig.Dir(t)
	r = rig.New(t, rig.Options{Link: func(agent string) string {
		return fmt.Sprintf("echo >>%[1]s/starts; "+before+" exec %[2]s", dir, agent)
	}})
	host = rig.StartProbe(t, r.OnHost(rig.ProbeProgram(t)))
	all(host, "umask 0", "socket 5 stream", "bind 5 h", "listen 5 9")
	guest = rig.StartProbe(t, r.Run(rig.ProbeProgram(t)))
	all(guest, "umask 0", "socket 5 stream", "connect 5 h")
	return r, host, guest, dir
}

// all has p carry out calls that succeed.
func all(p *rig.Probe, calls ...string) {
	for _, c := range calls {
		p.Want("ok", "%s", c)
	}
}

// lose ends the agent by a signal and waits until the guest has noticed.
func lose(t *testing.T, r *rig.Rig, guest *rig.Probe, sig unix.Signal) {
	t.Helper()
	for _, p := range r.Parts()["agent"] {
		_ = unix.Kill(p, sig)
	}
	if got := guest.Do("recv 5 9"); got != "ECONNRESET" {
		t.Errorf("a connection of the lost link ends with %s, want ECONNRESET", got)
	}
}

// TestReplacedBack has a server that has taken the name of another, which keeps its
// socket open: what comes back with the next link is the name of the one that has it.
// The agents take their files along when they end.
func TestReplacedBack(t *testing.T) {
	t.Parallel()
	r, host, guest, _ := backRig(t, "")
	all(guest, "socket 6 stream", "bind 6 n", "listen 6 5")
	for fd := 10; fd < 14; fd++ {
		all(guest, "unlink n", fmt.Sprintf("socket %d stream", fd), fmt.Sprintf("bind %d n", fd), fmt.Sprintf("listen %d 5", fd))
		lose(t, r, guest, unix.SIGTERM)
		connects(t, host, "n", within)
		host.Want("ok 1", "send 8 x")
		guest.Want("ok 1", "poll %d 3000", fd)
		guest.Want("ok len=2", "accept %d 7", fd)
		guest.Want("ok 1 x", "recv 7 4")
		all(guest, "close 5", "socket 5 stream", "connect 5 h")
	}
}

// TestClosedWhileAway has a program close its socket and remove the file while there is
// no link: neither comes back, and the name is free for another.
func TestClosedWhileAway(t *testing.T) {
	t.Parallel()
	r, host, guest, dir := backRig(t, "test ! -e %[1]s/slow || sleep 1.5;")
	all(guest, "socket 6 stream", "bind 6 n", "listen 6 5", "socket 7 stream", "bind 7 m", "listen 7 5")
	if err := os.WriteFile(dir+"/slow", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	lose(t, r, guest, unix.SIGTERM)
	time.Sleep(300 * time.Millisecond) // they wait for the link by now
	all(guest, "close 6", "close 7")
	for _, n := range []string{"n", "m"} {
		_ = guest.Do("unlink %s", n) // which the agent may have taken along
	}
	all(guest, "socket 6 stream", "bind 6 n", "listen 6 5")
	connects(t, host, "n", within)
	guest.Want("ok len=2", "accept 6 9")
	if got := host.Do("stat m"); got != "ENOENT" {
		t.Errorf("the file of a socket that was closed and unlinked: %s, want ENOENT", got)
	}
}

// TestLostInBind loses the link in the midst of a bind: the agent has answered, and the
// program's own socket has not its name yet.
func TestLostInBind(t *testing.T) {
	t.Parallel()
	r, host, guest, _ := backRig(t, "")
	all(guest, "socket 6 stream", "bind 6 first")
	stop := func(sig unix.Signal) {
		for _, p := range r.Parts()["names"] {
			if err := unix.Kill(p, sig); err != nil {
				t.Fatal(err)
			}
		}
	}
	stop(unix.SIGSTOP)
	all(guest, "socket 6 stream")
	guest.Ask("bind 6 n")
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Lstat(filepath.Join(r.Host, "n")); err == nil {
			break
		}
		if time.Since(start) > within {
			t.Fatal("the agent makes no socket")
		}
	}
	for _, p := range r.Parts()["agent"] {
		_ = unix.Kill(p, unix.SIGKILL)
	}
	time.Sleep(500 * time.Millisecond) // the link's end has been dealt with
	stop(unix.SIGCONT)
	if got := guest.AnswerWithin(within); got != "ok" {
		t.Fatalf("bind: %s", got)
	}
	all(guest, "listen 6 5")
	connects(t, host, "n", within)
	guest.Want("ok len=2", "accept 6 9")
}

// TestHopelessBeside has one socket that can't come back, since its folder has gone:
// others are back after a loss as soon as without it.
func TestHopelessBeside(t *testing.T) {
	t.Parallel()
	r, host, guest, _ := backRig(t, "")
	all(guest, "mkdir d", "socket 6 stream", "bind 6 d/x", "listen 6 5", "socket 7 stream", "bind 7 n", "listen 7 5")
	if err := os.RemoveAll(filepath.Join(r.Host, "d")); err != nil {
		t.Fatal(err)
	}
	lose(t, r, guest, unix.SIGKILL)
	connects(t, host, "n", within)
	// The pauses between tries grow. After the one that may be over by chance just now,
	// the next is longer than a way back may take.
	time.Sleep(9 * time.Second)
	for range 2 {
		all(guest, "close 5", "socket 5 stream", "connect 5 h")
		lose(t, r, guest, unix.SIGKILL)
		t.Logf("back after %v", connects(t, host, "n", 3*time.Second))
	}
}

// TestDyingAgents has agents that answer and die at once: the socket that waits for one
// doesn't start them as fast as it can.
func TestDyingAgents(t *testing.T) {
	t.Parallel()
	r, _, guest, dir := backRig(t, "if test -e %[1]s/dying; then exec 3<&0; %[2]s <&3 & sleep 0.2; kill -9 $!; wait; exit; fi;")
	all(guest, "socket 6 stream", "bind 6 n", "listen 6 5")
	if err := os.WriteFile(dir+"/dying", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	lose(t, r, guest, unix.SIGKILL)
	const watched = 6 * time.Second
	time.Sleep(watched)
	st, err := os.Stat(dir + "/starts")
	if err != nil {
		t.Fatal(err)
	}
	// One a second, the first, and one that comes to nothing at once.
	if n, most := int(st.Size())-1, int(watched/time.Second)+2; n < 2 || n > most {
		t.Errorf("%d agents were started in %v, want 2 to %d", n, watched, most)
	}
}
