//go:build linux

package contract

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// churn connects, talks and closes without a pause, listens, and takes errors
// as they come. To each line of stdin it says how many connections worked since
// the last one and if any call took longer than within.
func churn(name string) error {
	var worked, slow atomic.Int64
	for i := range 8 {
		go func() {
			for n := 0; ; n++ {
				start := time.Now()
				c, err := net.Dial("unix", name)
				if err == nil {
					// The first lanes are long ones, which die in the middle.
					for range 1 + 100*(i%2) {
						if err = ask(c, n%1000000); err != nil {
							break
						}
					}
					c.Close()
				}
				if err == nil {
					worked.Add(1)
				} else {
					time.Sleep(time.Millisecond)
				}
				if time.Since(start) > within {
					slow.Add(1)
				}
			}
		}()
	}
	go func() {
		for {
			start := time.Now()
			os.Remove(name + ".own")
			if l, err := net.Listen("unix", name+".own"); err == nil {
				l.Close()
			} else {
				time.Sleep(time.Millisecond)
			}
			if time.Since(start) > within {
				slow.Add(1)
			}
		}
	}()
	var word string
	for {
		if _, err := fmt.Scan(&word); err != nil {
			return nil
		}
		fmt.Printf("worked %v slow %d\n", worked.Swap(0) > 0, slow.Load())
	}
}

// works waits until connections have worked since the last report.
func works(c *rig.Probe) {
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if c.Do("report") == "worked true slow 0" {
			return
		}
	}
	c.Want("worked true slow 0", "report")
}

// TestKillsAtAnyMoment kills each part while programs connect, talk and bind
// as fast as they can.
func TestKillsAtAnyMoment(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	start := func(t *testing.T) (*rig.Rig, *rig.Probe, *rig.Probe) {
		r := newRig(t, 0)
		server := r.OnHost(self, "serve", "load.sock")
		server.Env = append(server.Env, roleVar+"=1")
		s := rig.StartProbe(t, server)
		s.Ask("")
		if got := s.Answer(); got != "listening" {
			t.Fatal(got)
		}
		client := r.Run(self, "churn", "load.sock")
		client.Env = append(client.Env, roleVar+"=1")
		c := rig.StartProbe(t, client)
		works(c)
		return r, s, c
	}
	moment := func() time.Duration { return time.Duration(rand.IntN(int(200 * time.Millisecond))) }
	t.Run("agent", func(t *testing.T) {
		r, _, c := start(t)
		for range 4 {
			time.Sleep(moment())
			for _, pid := range r.Parts()["agent"] {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			// An agent is started once in a second at the most.
			time.Sleep(1500 * time.Millisecond)
			c.Do("report")
			works(c)
		}
	})
	t.Run("peer", func(t *testing.T) {
		_, s, c := start(t)
		time.Sleep(moment())
		s.Kill()
		// What was just coming out well is told first, and what came out before.
		for end := time.Now().Add(within); c.Do("report") != "worked false slow 0" && time.Now().Before(end); {
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(300 * time.Millisecond)
		c.Want("worked false slow 0", "report")
	})
	for _, victim := range []string{"supervisor", "front"} {
		for i := range 3 {
			t.Run(fmt.Sprint(victim, i), func(t *testing.T) {
				r, s, _ := start(t)
				time.Sleep(moment())
				for _, pid := range r.Parts()[victim] {
					_ = unix.Kill(pid, unix.SIGKILL)
				}
				if left := r.WaitGoneBut(within, s.PID); len(left) > 0 {
					t.Errorf("left: %v", r.Parts())
				}
			})
		}
	}
}

// TestNameComesAndGoes binds a name that a host program makes and removes all the
// time. On one machine there is either a file at the moment of bind or there is none.
func TestNameComesAndGoes(t *testing.T) { everyWay(t, few, nameComesAndGoes) }

func nameComesAndGoes(t *testing.T, w way) {
	r := rig.New(t, w.options())
	x := filepath.Join(r.Host, "x")
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			f, err := os.OpenFile(x, os.O_CREATE|os.O_EXCL, 0o600)
			if err == nil {
				f.Close()
				err = os.Remove(x)
			}
			if err != nil && !errors.Is(err, fs.ErrExist) {
				done <- err
				return
			}
		}
	}()
	start := w.open(r)
	p := rig.StartProbe(t, start(rig.ProbeProgram(t)))
	got := map[string]int{}
	for range 400 {
		p.Want("ok", "socket 5 stream")
		a := p.Do("bind 5 x")
		got[a]++
		p.Want("ok", "close 5")
		if a == "ok" {
			p.Want("ok", "unlink x")
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	p.End()
	for a := range got {
		if a != "ok" && a != "EADDRINUSE" {
			t.Errorf("bind: %v, want ok and EADDRINUSE only", got)
			break
		}
	}
	if len(got) < 2 {
		t.Errorf("bind: %v, so the name did not come and go", got)
	}
}

// TestFileStays ends programs that have bound a socket, and with them the run and its
// agent: the file stays, as on one machine, whichever the agent learns of first.
func TestFileStays(t *testing.T) {
	r := newRig(t, 0)
	gone := 0
	const rounds = 40
	for range rounds {
		p := rig.StartProbe(t, r.Run(rig.ProbeProgram(t)))
		p.Want("ok", "socket 5 stream")
		p.Want("ok", "bind 5 x")
		p.End()
		if err := os.Remove(filepath.Join(r.Host, "x")); err != nil {
			gone++
		}
	}
	if gone > 0 {
		t.Errorf("%d of %d files are gone", gone, rounds)
	}
}
