//go:build linux

package contract

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// within bounds how long a program may notice nothing of a death.
const within = 5 * time.Second

// victims are whom to kill while the programs wait for them.
var victims = []string{"agent", "supervisor", "front", "peer", "command"}

// blocked are calls that a guest's program may be in when somebody dies, and
// what it takes to get there. Socket 5 is connected to the host's 6.
var blocked = []struct {
	name, call string
	lasting    bool // it waits for others too, and goes on when only the link or a peer is gone
}{
	{"recv", "recv 5 9", false},
	{"recv of bulk", "recvn 5 100000000000", false},
	{"send of bulk", "sendn 5 100000000000", false},
	{"epoll", "epollwait 10 60000", false},
	{"connect", "connect 7 full", false},
	{"accept", "accept 8 9", true},
}

// TestKills kills each part while a program stands in each call: nobody hangs.
func TestKills(t *testing.T) {
	for _, acc := range accounts {
		for _, victim := range victims {
			for _, b := range blocked {
				if b.lasting && (victim == "agent" || victim == "peer") {
					continue
				}
				if acc.uid != 0 && b.name != "recv" && b.name != "connect" {
					continue // the same as root's, but for the way that a kill takes
				}
				t.Run(acc.name+"/"+victim+"/"+b.name, func(t *testing.T) {
					t.Parallel()
					kill(t, acc.uid, victim, b.call)
				})
			}
		}
	}
}

func kill(t *testing.T, uid uint32, victim, call string) {
	r := newRig(t, uid)
	host := rig.StartProbe(t, r.OnHost(rig.ProbeProgram(t)))
	for _, l := range []string{"umask 0", "socket 5 stream", "bind 5 h", "listen 5 9", "socket 4 stream", "bind 4 full", "listen 4 0"} {
		host.Want("ok", "%s", l)
	}
	guest := rig.StartProbe(t, r.Run(rig.ProbeProgram(t)))
	for _, l := range []string{"umask 0", "socket 5 stream", "epoll 10", "epolladd 10 5 in", "connect 5 h", "socket 6 stream nonblock", "connect 6 full",
		"socket 7 stream", "socket 8 stream", "bind 8 n", "listen 8 5"} {
		guest.Want("ok", "%s", l)
	}
	host.Want("ok len=2", "accept 5 6")
	pid := guest.Do("pid")
	host.Want("ok", "socket 7 stream")
	guest.Ask("%s", call)
	if call == "recvn 5 100000000000" {
		host.Ask("sendn 6 100000000000")
	} else {
		// Fills what lies between, and waits for the guest's end.
		host.Ask("recv 7 1")
		_ = host.Answer()
	}
	time.Sleep(200 * time.Millisecond)
	var pids []int
	switch victim {
	case "peer":
		pids = []int{host.PID}
	case "command":
		pids = []int{number(t, pid)}
	default:
		pids = r.Parts()[victim]
	}
	if len(pids) == 0 {
		t.Fatalf("no %s among %v", victim, r.Parts())
	}
	for _, p := range pids {
		if err := unix.Kill(p, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	switch victim {
	case "agent", "peer":
		end := guest.AnswerWithin(within)
		t.Logf("%s: %s", call, end)
	case "supervisor", "front", "command":
		if victim != "supervisor" && strings.HasPrefix(call, "sendn") {
			// What the program sent is on its way until the host's program reads
			// it or ends, as natively; only then there is nothing left to do.
			host.Kill()
		}
		if left := r.WaitGoneBut(within, host.PID); len(left) > 0 {
			t.Errorf("%d processes are left, %v", len(left), r.Parts())
		}
	}
}

// TestDeadNames kills the process that names sockets: connections stay, and
// calls that need a new name get it from another one.
func TestDeadNames(t *testing.T) {
	r := newRig(t, 0)
	host := rig.StartProbe(t, r.OnHost(rig.ProbeProgram(t)))
	guest := rig.StartProbe(t, r.Run(rig.ProbeProgram(t)))
	for _, l := range []string{"umask 0", "socket 5 stream", "bind 5 h", "listen 5 9"} {
		host.Want("ok", "%s", l)
	}
	guest.Want("ok", "socket 5 stream")
	guest.Want("ok", "connect 5 h")
	for _, p := range r.Parts()["names"] {
		_ = unix.Kill(p, unix.SIGKILL)
	}
	host.Want("ok len=2", "accept 5 6")
	guest.Want("ok 1", "send 5 x")
	host.Want("ok 1 x", "recv 6 4")
	for _, call := range []string{"connect 6 ./h", "bind 6 n", "connect 6 h"} {
		guest.Want("ok", "socket 6 stream")
		start := time.Now()
		guest.Want("ok", "%s", call)
		// A keeper that doesn't answer is given up after 20 s, and one is started anew.
		if d := time.Since(start); d > within {
			t.Errorf("%s took %v", call, d)
		}
	}
	guest.Want("ok 1", "send 5 y")
	host.Want("ok 1 y", "recv 6 4")
}

// TestNextLink has a new agent take over when the old one was killed: calls
// that come later work, and listeners are back with it.
func TestNextLink(t *testing.T) {
	for _, acc := range accounts {
		t.Run(acc.name, func(t *testing.T) {
			r := newRig(t, acc.uid)
			host := rig.StartProbe(t, r.OnHost(rig.ProbeProgram(t)))
			for _, l := range []string{"umask 0", "socket 5 stream", "bind 5 h", "listen 5 9"} {
				host.Want("ok", "%s", l)
			}
			guest := rig.StartProbe(t, r.Run(rig.ProbeProgram(t)))
			for _, l := range []string{"umask 0", "socket 5 stream", "connect 5 h", "socket 6 stream", "bind 6 n", "listen 6 5"} {
				guest.Want("ok", "%s", l)
			}
			host.Want("ok", "chmod 740 n") // which must not open up again
			for _, p := range r.Parts()["agent"] {
				_ = unix.Kill(p, unix.SIGKILL)
			}
			if got := guest.Do("recv 5 9"); got != "ECONNRESET" {
				t.Errorf("a connection of the lost link ends with %s, want ECONNRESET", got)
			}
			time.Sleep(1200 * time.Millisecond)
			guest.Want("ok", "socket 7 stream")
			guest.Want("ok", "connect 7 h")
			connects(t, host, "n", within)
			host.Want("ok 1", "send 8 x")
			guest.Want("ok len=2", "accept 6 9")
			guest.Want("ok 1 x", "recv 9 4")
			if got := host.Do("stat n"); !strings.Contains(got, " mode=740") {
				t.Errorf("the socket's file is back as %q, want the mode 740 that it was given", got)
			}
		})
	}
}

// TestDeadServer kills a server of the guest: the host's programs are refused
// within a second, and the file stays, as natively (C15).
func TestDeadServer(t *testing.T) {
	for _, acc := range accounts {
		t.Run(acc.name, func(t *testing.T) {
			r := newRig(t, acc.uid)
			host := rig.StartProbe(t, r.OnHost(rig.ProbeProgram(t)))
			// The shell is the command, so that the supervisor lives on.
			guest := rig.StartProbe(t, r.Run("sh", "-c", rig.ProbeProgram(t)+"; sleep 3"))
			for _, l := range []string{"umask 0", "socket 6 stream", "bind 6 n", "listen 6 5"} {
				guest.Want("ok", "%s", l)
			}
			host.Want("ok", "socket 8 stream")
			host.Want("ok", "connect 8 n")
			if err := unix.Kill(number(t, guest.Do("pid")), unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			host.Want("ok 0", "recv 8 4")
			for {
				host.Want("ok", "socket 8 stream")
				if got := host.Do("connect 8 n"); got == "ECONNREFUSED" {
					break
				}
				if time.Since(start) > 1500*time.Millisecond {
					t.Error("the host's programs still connect to a server that is dead")
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Logf("refused after %v", time.Since(start).Round(time.Millisecond))
			if got := host.Do("stat n"); got[:2] != "ok" {
				t.Errorf("the file: %s", got)
			}
		})
	}
}

// TestStuckAgent has an agent stand still, with its sockets open: it is ended
// when the link is given up for it, and a new one has the listeners.
func TestStuckAgent(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	host := rig.StartProbe(t, r.OnHost(rig.ProbeProgram(t)))
	guest := rig.StartProbe(t, r.Run(rig.ProbeProgram(t)))
	for _, l := range []string{"umask 0", "socket 6 stream", "bind 6 n", "listen 6 5"} {
		guest.Want("ok", "%s", l)
	}
	agents := r.Parts()["agent"]
	for _, p := range agents {
		if err := unix.Kill(p, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer unix.Kill(p, unix.SIGCONT)
	}
	// 15 s of silence, and what an agent has to end by itself.
	for start := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		if now := r.Parts()["agent"]; len(now) > 0 && !slices.Contains(now, agents[0]) {
			break
		}
		if time.Since(start) > 25*time.Second {
			t.Fatalf("%d of the agents %v are left", len(r.Parts()["agent"]), agents)
		}
	}
	connects(t, host, "n", within)
	host.Want("ok 1", "send 8 x")
	guest.Want("ok len=2", "accept 6 9")
	guest.Want("ok 1 x", "recv 9 4")
}

// TestBackWithCall has no agent to be had for a while, so that tries to bring a
// listener back are long apart. When another call gets a link, the listener is back
// with it.
func TestBackWithCall(t *testing.T) {
	t.Parallel()
	dir := rig.Dir(t)
	r := rig.New(t, rig.Options{Link: func(agent string) string {
		return fmt.Sprintf("echo >>%s/tries; test ! -e %s/down && exec %s", dir, dir, agent)
	}})
	host := rig.StartProbe(t, r.OnHost(rig.ProbeProgram(t)))
	guest := rig.StartProbe(t, r.Run(rig.ProbeProgram(t)))
	for _, l := range []string{"umask 0", "socket 5 stream", "bind 5 h", "listen 5 9"} {
		host.Want("ok", "%s", l)
	}
	for _, l := range []string{"umask 0", "socket 6 stream", "bind 6 n", "listen 6 5"} {
		guest.Want("ok", "%s", l)
	}
	if err := os.WriteFile(dir+"/down", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Parts()["agent"] {
		_ = unix.Kill(p, unix.SIGKILL)
	}
	// A pause is at least twice as long as the shortest before it can be: after
	// one of 3.2 s comes one of 6.4 s.
	for start, tried, tries := time.Now(), time.Now(), int64(0); ; time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatal("the pauses don't grow")
		}
		st, err := os.Stat(dir + "/tries")
		if err != nil {
			t.Fatal(err)
		}
		if st.Size() == tries {
			continue
		}
		apart := time.Since(tried)
		tried, tries = time.Now(), st.Size()
		if apart > 3250*time.Millisecond {
			break
		}
	}
	if err := os.Remove(dir + "/down"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // an agent is started at most once a second
	guest.Want("ok", "socket 7 stream")
	guest.Want("ok", "connect 7 h")
	t.Logf("back after %v", connects(t, host, "n", 3*time.Second))
}

// connects has the host connect its socket 8 to a listener of the guest that is being
// brought back, which others' calls on a new link don't wait for.
func connects(t *testing.T, host *rig.Probe, name string, within time.Duration) time.Duration {
	t.Helper()
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		host.Want("ok", "socket 8 stream nonblock")
		got := host.Do("connect 8 %s", name)
		if got == "ok" {
			return time.Since(start)
		}
		if time.Since(start) > within {
			t.Fatalf("connect to a listener that should be back: %s", got)
		}
	}
}

// TestResetsInARow has connections that the guest accepted reset one right after
// the other: each is a reset to its program, as natively.
func TestResetsInARow(t *testing.T) {
	r := newRig(t, 0)
	host := rig.StartProbe(t, r.OnHost(rig.ProbeProgram(t)))
	guest := rig.StartProbe(t, r.Run(rig.ProbeProgram(t)))
	for _, l := range []string{"umask 0", "socket 6 stream", "bind 6 n", "listen 6 5"} {
		guest.Want("ok", "%s", l)
	}
	for range 10 {
		host.Want("ok", "socket 8 stream")
		host.Want("ok", "connect 8 n")
		guest.Want("ok len=2", "accept 6 9")
		guest.Want("ok 2", "send 9 xy")
		host.Want("ok 1 x", "recv 8 1") // and leaves one
		host.Want("ok", "close 8")
		guest.Want("ECONNRESET", "recv 9 4")
		guest.Want("ok", "close 9")
	}
}
