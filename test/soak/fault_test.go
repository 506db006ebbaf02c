//go:build linux

package soak

import (
	"bufio"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/view"
	"drvsock/test/soak/part"
)

// A faulty link is told what to do by a control socket. Each time that the link
// is made anew, it is a sound one.
type faulty struct {
	t *testing.T
	l net.Listener

	mu    sync.Mutex
	conn  net.Conn // of the link that was made last
	reply *bufio.Reader
	made  int
	dumb  int // so many links that never begin
}

// newFaulty makes the control socket at path. The first links, dumb of them, say
// nothing at all.
func newFaulty(t *testing.T, path string, dumb int) *faulty {
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{t: t, l: l, dumb: dumb}
	t.Cleanup(f.close)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			if f.conn != nil {
				_ = f.conn.Close()
			}
			f.conn, f.reply = c, bufio.NewReader(c)
			f.made++
			if f.made > f.dumb {
				f.tellLocked("begin")
			}
			f.mu.Unlock()
		}
	}()
	return f
}

func (f *faulty) close() {
	_ = f.l.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conn != nil {
		_ = f.conn.Close()
	}
}

// tell has the link begin with a fault.
func (f *faulty) tell(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tellLocked(line)
}

func (f *faulty) tellLocked(line string) {
	if f.conn == nil {
		return
	}
	_ = f.conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, err := io.WriteString(f.conn, line+"\n")
	if err == nil {
		_, err = f.reply.ReadString('\n')
	}
	if err != nil {
		f.t.Logf("link, told %q: %v", line, err) // it may have been killed just now
	}
}

// signal sends sig to parts of drvsock.
func (s *soak) signal(sig unix.Signal, parts ...string) {
	for part, pids := range s.Parts() {
		for _, pid := range pids {
			if slices.Contains(parts, part) {
				if err := unix.Kill(pid, sig); err != nil {
					s.t.Errorf("signal to the %s: %v", part, err)
				}
			}
		}
	}
}

// Bounds of faults. A peer is dead after 15 s of silence, counted in ticks of
// 2.5 s, and an agent that doesn't end by itself is killed 2 s later. The rest is
// for a machine that has others to serve.
const (
	soon      = 8 * time.Second
	afterDead = 25 * time.Second
	backDead  = 30 * time.Second
)

// dialWithin is how long a forward's connection may take to be opened.
const dialWithin = 15 * time.Second

// A fault is what a link or the processes at its ends may meet.
type fault struct {
	name  string
	tell  string // to the link; "" if it is for begin
	begin func(s *soak)
	hold  time.Duration // how long until end
	end   func(s *soak, f *faulty)
	fails time.Duration // within which streams fail; 0: nothing is lost
	back  time.Duration // within which new connections work, since its end if nothing is lost
}

// drvsock are the parts that a machine's sleep stops together.
var drvsock = []string{"agent", "daemon", "front", "supervisor", "names", view.Word}

func signals(sig unix.Signal, parts ...string) func(*soak) {
	return func(s *soak) { s.signal(sig, parts...) }
}

// goOn ends a SIGSTOP.
func goOn(s *soak, _ *faulty) { s.signal(unix.SIGCONT, drvsock...) }

// faults are in groups, each of which has a site and meets them one by one.
var faults = [][]fault{
	{
		{name: "agent killed", begin: signals(unix.SIGKILL, "agent"), fails: soon, back: soon},
		{name: "cut within a frame to the agent", tell: "cut up", fails: soon, back: soon},
		{name: "cut within a frame from the agent", tell: "cut down", fails: soon, back: soon},
		{name: "garbage to the agent", tell: "garbage up 1", fails: soon, back: soon},
		{name: "garbage from the agent", tell: "garbage down 2", fails: soon, back: soon},
	},
	{{name: "daemon killed", begin: signals(unix.SIGKILL, "daemon"), fails: soon, back: soon}},
	{
		{name: "nothing moves for 6 s", tell: "stall both", hold: 6 * time.Second, back: soon, end: func(_ *soak, f *faulty) { f.tell("stall both off") }},
		{name: "agent stands still for 6 s", begin: signals(unix.SIGSTOP, "agent"), hold: 6 * time.Second, back: soon, end: goOn},
		{name: "30 ms and 2 MB/s each way", tell: "delay both 30ms", hold: 2 * time.Second, back: soon,
			end: func(_ *soak, f *faulty) { f.tell("rate both 2000000"); time.Sleep(2 * time.Second) }},
	},
	{{name: "nothing moves", tell: "stall both", fails: afterDead, back: backDead}},
	{{name: "writes to the agent vanish", tell: "vanish up", fails: afterDead, back: backDead}},
	{{name: "writes from the agent vanish", tell: "vanish down", fails: afterDead, back: backDead}},
	{{name: "agent stands still", begin: signals(unix.SIGSTOP, "agent"), fails: afterDead, back: backDead}},
	// As when a machine sleeps: all timers stand still.
	{{name: "all stand still for 18 s", begin: signals(unix.SIGSTOP, drvsock...), hold: 18 * time.Second, back: soon, end: goOn}},
	{{name: "daemon stands still for 18 s", begin: signals(unix.SIGSTOP, "daemon"), hold: 18 * time.Second, end: goOn,
		fails: afterDead, back: backDead}},
}

// TestFaults has links with faults under load: how long until their streams fail,
// and until all routes are back, is bounded and told.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	for _, group := range faults {
		t.Run(group[0].name, func(t *testing.T) {
			t.Parallel()
			var f *faulty
			// A view goes with the daemon that keeps it, and what programs have bound there.
			mounted := group[0].name != "daemon killed"
			s := startSoak(t, "light", mounted, func(s *site, agent string) string {
				f = newFaulty(t, s.path("link.ctl"), 0)
				return s.peer + " link " + s.path("link.ctl") + " " + agent
			})
			s.say("go")
			for _, fault := range group {
				s.await(backDead, time.Now(), "the routes work")
				// An agent that dies in its first second can't live, as the daemon
				// sees it. And streams shall be on their way.
				time.Sleep(1500 * time.Millisecond)
				s.meet(f, fault)
			}
			f.close()
			s.finish(nil)
			if len(s.never) > 0 {
				t.Errorf("%+v", s.never)
			}
		})
	}
}

// meet has a fault happen and compares what follows with what may.
func (s *soak) meet(f *faulty, fault fault) {
	t := s.t
	t.Helper()
	began := time.Now()
	if fault.begin != nil {
		fault.begin(s)
	} else {
		f.tell(fault.tell)
	}
	after := time.Now()
	if fault.hold > 0 {
		select {
		case <-time.After(fault.hold):
			fault.end(s, f)
			after = time.Now()
		case <-s.alarm:
			s.fail()
		}
	}
	s.await(part.CallBound+fault.back, after, "the routes are back after: "+fault.name)
	met, fails, back := s.times(began, after)
	if fault.fails == 0 {
		back -= after.Sub(began)
	}
	t.Logf("%-36s %3d connections fail after %5.2f s, all works after %5.2f s", fault.name, len(met), fails.Seconds(), back.Seconds())
	if fault.fails == 0 && fault.hold > dialWithin {
		// One that was just being opened has had its time, which is told by the
		// clock. When a machine sleeps, that clock stands still.
		met = slices.DeleteFunc(met, func(c part.Report) bool { return c.Start.After(began.Add(-time.Second)) })
	}
	switch {
	case fault.fails == 0 && len(met) > 0:
		t.Errorf("%s: connections failed: %+v", fault.name, met)
	case fault.fails > 0 && len(met) == 0:
		t.Errorf("%s: no connection failed", fault.name)
	case fault.fails > 0 && fails > fault.fails:
		t.Errorf("%s: connections fail after %v, more than %v", fault.name, fails, fault.fails)
	case back > fault.back:
		t.Errorf("%s: the routes are back after %v, more than %v", fault.name, back, fault.back)
	}
}

// times tells which connections a fault met, how long it took until the last of
// them had failed, and until all routes worked again.
func (s *soak) times(began, after time.Time) (met []part.Report, fails, back time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.routes {
		for _, c := range s.cut {
			if c.Route == r && c.Start.Before(began) && c.End.After(began) {
				met = append(met, c)
				if c.Kind != part.Idle { // whose client may just not look
					fails = max(fails, c.End.Sub(began))
				}
			}
		}
		for _, w := range s.well[r] {
			if w.start.After(after) {
				back = max(back, w.end.Sub(began))
				break
			}
		}
	}
	return met, fails, back
}

// TestDumbLink has an agent that starts and says nothing: whoever waits for the
// link is told in time, and the next try makes a new one.
func TestDumbLink(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 15 seconds")
	}
	t.Parallel()
	s := newSite(t, func(s *site, agent string) string {
		newFaulty(t, s.path("link.ctl"), 1)
		return s.peer + " link " + s.path("link.ctl") + " " + agent
	})
	began := time.Now()
	_, err := s.try("up", "--wait")
	took := time.Since(began)
	if err == nil || took < 14*time.Second || took > afterDead {
		t.Errorf("no link after %v, %v", took, err)
	}
	began = time.Now()
	for {
		if _, err = s.try("up", "--wait"); err == nil {
			break
		}
		if time.Since(began) > soon {
			t.Fatal(err)
		}
	}
	t.Logf("no link after %v: the next after %v", took, time.Since(began))
}
