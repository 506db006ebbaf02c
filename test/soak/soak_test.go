//go:build linux

package soak

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/control"
	"drvsock/test/rig"
	"drvsock/test/soak/part"
)

func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "20") // most of them wait most of the time
	rig.Main(m)
}

// Environment of the soak: how long, and what begins the row of its victims.
const (
	durationVar = "DRVSOCK_SOAK"
	seedVar     = "DRVSOCK_SOAK_SEED"
)

// weights say how often each victim is chosen.
var weights = []struct {
	victim string
	n      int
}{
	{"agent", 8}, {"daemon", 6}, {"supervisor", 1}, {"front", 1}, {"link", 6},
	{"host-server", 3}, {"run-server", 3}, {"guest-server", 3},
	{"run-client", 2}, {"host-client", 2}, {"guest-client", 2},
}

// A soak is a site with programs that talk in all directions.
type soak struct {
	*site
	*ledger
	mount string // the folder that is mounted, "" for none
	kept  map[string]*part.Kept
	began sync.Map // words of programs that have begun, by name
}

// TestSoak kills processes and spoils the link at random under load: no byte is
// wrong, no call hangs, all routes come back, and nothing is left.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	duration := 20 * time.Second
	if v := os.Getenv(durationVar); v != "" {
		var err error
		if duration, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
	}
	seed := rand.Uint64()
	if v := os.Getenv(seedVar); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%s=%v %s=%d", durationVar, duration, seedVar, seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	var f *faulty
	s := startSoak(t, "full", false, func(s *site, agent string) string {
		f = newFaulty(t, s.path("link.ctl"), 0)
		return s.peer + " link " + s.path("link.ctl") + " " + agent
	})
	// What is made once is made by the first load.
	s.say("go")
	s.await(2*backBound, time.Now(), "the routes work")
	s.stop()
	s.settled()
	before := s.count()
	t.Logf("idle, there are %v", before)
	s.stopping = false
	s.say("go")
	s.await(2*backBound, time.Now(), "the routes work")

	// In the last part daemon and run live, so that what they lose adds up.
	end := time.Now().Add(duration)
	calm := end.Add(-duration / 3)
	for s.pause(rng) && time.Now().Before(end) {
		s.kill(rng, f, time.Now().Before(calm))
		if r := s.stale(); r != "" {
			t.Errorf("nothing has come by %s for %v", r, staleAfter)
			s.fail()
		}
	}
	s.await(2*backBound, time.Now(), "the routes are back")
	f.close()
	s.finish(before)
	s.judge()
}

// startSoak starts all programs, which wait for the word "go". A mounted soak has a
// folder of the drive mounted, in which programs of both sides serve others of the
// other one.
func startSoak(t *testing.T, lanes string, mounted bool, link func(s *site, agent string) string) *soak {
	s := &soak{site: newSite(t, link), ledger: newLedger(), kept: map[string]*part.Kept{}}
	program := func(name string, command func() *exec.Cmd) {
		sweep := func() {}
		if name == "run" {
			sweep = s.sweep
		}
		s.kept[name] = part.Keep(func(l string) {
			if !s.line(l) {
				s.began.Store(name+" "+l, true)
			}
		}, sweep, command)
	}
	s.do("up", "--wait")
	hostClient := []string{"load", "host-client", lanes, "down=n.sock", "fdown=fdown.sock"}
	guestClient := []string{s.peer, "load", "guest-client", lanes, "fup=" + s.path("fup.sock")}
	words := []string{"host-server listening", "guest-server listening", "run listening", "run ready", "host-client ready", "guest-client ready"}
	if mounted {
		s.mount, s.routes = s.View+"/m", slices.Concat(routes, mountRoutes)
		if err := os.Mkdir(s.Host+"/m", 0o755); err != nil {
			t.Fatal(err)
		}
		s.do("mount", s.mount)
		program("mount-host-server", func() *exec.Cmd { return s.host("serve", "mount-host-server", "m/h.sock") })
		program("mount-guest-server", func() *exec.Cmd { return s.guest(s.peer, "serve", "mount-guest-server", s.mount+"/g.sock") })
		hostClient = append(hostClient, "mdown:quiet=m/g.sock")
		guestClient = append(guestClient, "mup:quiet="+s.mount+"/h.sock")
		words = append(words, "mount-host-server listening", "mount-guest-server listening")
	}
	program("host-server", func() *exec.Cmd { return s.host("serve", "host-server", "h.sock") })
	program("guest-server", func() *exec.Cmd { return s.guest(s.peer, "serve", "guest-server", s.path("g.sock")) })
	program("run", func() *exec.Cmd {
		return s.guest(s.Bin, "run", "--", s.peer, "nurse",
			"serve", "run-server", "n.sock", "--", "load", "run-client", lanes, "up=h.sock")
	})
	program("host-client", func() *exec.Cmd { return s.host(hostClient...) })
	program("guest-client", func() *exec.Cmd { return s.guest(guestClient...) })
	for _, w := range words {
		until(s.t, part.CallBound, w, func() bool { _, ok := s.began.Load(w); return ok })
	}
	return s
}

// sweep is called when drvsock run has ended. Its supervisor, if that lives, is to end
// the command with all programs; if both were killed the programs go on, and can't
// bind or connect any more.
func (s *soak) sweep() {
	for limit := time.Now().Add(backBound); ; time.Sleep(5 * time.Millisecond) {
		left := slices.Concat(s.programs("nurse"), s.programs("serve", "run-server"), s.programs("load", "run-client"))
		late := time.Now().After(limit)
		if len(left) == 0 {
			return
		}
		if late {
			s.t.Errorf("%v after drvsock run ended %d of its programs live", backBound, len(left))
		}
		if late || len(s.Parts()["supervisor"]) == 0 {
			for _, pid := range left {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
}

// say says a word to all programs.
func (s *soak) say(word string) {
	for _, k := range s.kept {
		k.Say(word)
	}
}

// await waits until all routes have worked since at.
func (s *soak) await(limit time.Duration, at time.Time, what string) {
	s.t.Helper()
	for late := time.After(limit); !s.worked(at); {
		select {
		case <-s.alarm:
			s.fail()
		case <-late:
			s.hung()
			s.judge()
			s.t.Fatalf("not within %v: %s", limit, what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// pause waits a random while until the next kill.
func (s *soak) pause(rng *rand.Rand) bool {
	d := time.Duration(rng.ExpFloat64() * float64(time.Second))
	if rng.IntN(8) == 0 {
		d = 0 // two at once, or one that is just being made
	}
	select {
	case <-s.alarm:
		s.fail()
		return false
	case <-time.After(min(d, 5*time.Second)):
		return true
	}
}

// kill kills a random victim, of all or but daemon and run.
func (s *soak) kill(rng *rand.Rand, f *faulty, all bool) {
	victim := s.choose(rng)
	for !all && slices.Contains([]string{"daemon", "supervisor", "front"}, victim) ||
		// One that dies in its first second can't live, as the daemon sees it, and
		// several such let it wait. Most get longer.
		slices.Contains([]string{"agent", "link"}, victim) && s.since("agent", "daemon", "link") < 2*time.Second && rng.IntN(6) > 0 {
		victim = s.choose(rng)
	}
	if victim == "link" {
		s.spoil(rng, f)
		return
	}
	var pids []int
	switch kind, _, _ := strings.Cut(victim, "-"); {
	case kind == victim:
		pids = s.Parts()[victim]
	case strings.HasSuffix(victim, "-server"):
		pids = s.programs("serve", victim)
	default:
		pids = s.programs("load", victim)
	}
	for _, pid := range pids {
		s.killed(victim)
		_ = unix.Kill(pid, unix.SIGKILL) // it may have ended, as its parent was killed
	}
}

// spoil has the link fail, or it or a process stand still or be slow for a while,
// which loses nothing.
func (s *soak) spoil(rng *rand.Rand, f *faulty) {
	way := []string{"up", "down"}[rng.IntN(2)]
	while := func() { time.Sleep(time.Duration(rng.Int64N(int64(3 * time.Second)))) }
	switch rng.IntN(6) {
	case 0:
		s.killed("link")
		f.tell("cut " + way)
	case 1:
		s.killed("link")
		f.tell(fmt.Sprintf("garbage %s %d", way, rng.Uint64()))
	case 2:
		f.tell("stall " + way)
		while()
		f.tell("stall " + way + " off")
	case 3:
		f.tell(fmt.Sprintf("delay %s %dms", way, rng.IntN(20)))
	case 4:
		f.tell("rate " + way + " 1000000")
		while()
		f.tell("rate " + way + " 0")
	case 5:
		pids := s.Parts()[[]string{"agent", "daemon"}[rng.IntN(2)]]
		for _, sig := range []unix.Signal{unix.SIGSTOP, unix.SIGCONT} {
			for _, pid := range pids {
				_ = unix.Kill(pid, sig) // it may have ended
			}
			if sig == unix.SIGSTOP {
				while()
			}
		}
	}
}

// choose chooses a victim.
func (s *soak) choose(rng *rand.Rand) string {
	sum := 0
	for _, w := range weights {
		sum += w.n
	}
	n := rng.IntN(sum)
	for _, w := range weights {
		if n < w.n {
			return w.victim
		}
		n -= w.n
	}
	panic("unreachable")
}

// stop ends the load.
func (s *soak) stop() {
	s.t.Helper()
	s.began.Clear()
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	s.say("stop")
	for _, w := range []string{"run stopped", "host-client stopped", "guest-client stopped"} {
		for limit := time.Now().Add(2 * part.CallBound); ; time.Sleep(20 * time.Millisecond) {
			if _, ok := s.began.Load(w); ok {
				break
			}
			if time.Now().After(limit) {
				s.hung()
				s.t.Fatalf("not within %v: %s", 2*part.CallBound, w)
			}
		}
	}
}

// settled waits until no connection is left.
func (s *soak) settled() {
	s.t.Helper()
	var st *control.Status
	for limit := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		var err error
		if st, err = s.status(); err != nil {
			s.t.Fatal(err)
		}
		// Handles of listeners: the forward's, the run's, and the mount's.
		handles := 2
		if s.mount != "" {
			handles++
		}
		busy := len(st.Sessions) != 1 || st.Sessions[0].Streams != 0 || st.Links[0].Streams != handles
		for _, f := range st.Forwards {
			busy = busy || f.Active != 0
		}
		if !busy {
			return
		}
		if time.Now().After(limit) {
			s.t.Fatalf("connections are left: %+v", st)
		}
	}
}

// finish ends the load, and counts what is left: first while all else stands
// idle, if there is something to compare it with, then after the end of everything.
func (s *soak) finish(before map[string]int) {
	t := s.t
	t.Helper()
	s.stop()
	s.settled()
	if before != nil {
		s.compare(before)
	}
	names := []string{"guest-client", "host-client", "run", "guest-server", "host-server"}
	if s.mount != "" {
		names = append(names, "mount-guest-server", "mount-host-server")
	}
	for _, name := range names {
		if !s.kept[name].End(part.CallBound) {
			t.Errorf("%s does not end", name)
		}
	}
	if s.mount != "" {
		s.do("umount", s.mount)
	}
	s.do("down")
	if left := s.WaitGone(5 * time.Second); len(left) > 0 {
		t.Errorf("%d processes are left: %v", len(left), s.Parts())
	}
	var files []string
	for _, dir := range []string{s.Host, s.dir} {
		_ = filepath.Walk(dir, func(p string, info os.FileInfo, err error) error {
			if err == nil && !info.IsDir() {
				files = append(files, strings.TrimPrefix(p, dir+"/"))
			}
			return nil
		})
	}
	files = slices.DeleteFunc(files, func(f string) bool {
		return slices.Contains(s.own, f) || slices.Contains([]string{"config/drvsock/config.toml", "run/drvsock/lock", "run/drvsock/daemon.log", "run/drvsock/daemon.log.1"}, f)
	})
	if len(files) > 0 {
		t.Errorf("files are left: %q", files)
	}
}

// compare wants processes that stand idle to hold what they held before.
func (s *soak) compare(before map[string]int) {
	t := s.t
	t.Helper()
	after := s.count()
	more := func() bool {
		for what, n := range after {
			if n > before[what]+spare {
				return true
			}
		}
		return false
	}
	for limit := time.Now().Add(10 * time.Second); more(); after = s.count() {
		if time.Now().After(limit) {
			t.Errorf("idle, and not as before: %v, before %v", after, before)
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("idle, there are %v", after)
}

// spare is what processes may hold more than at first: a pipe for splicing is
// made when bytes come fast.
const spare = 2

// count counts what processes that live hold.
func (s *soak) count() map[string]int {
	n := map[string]int{}
	for part, pids := range s.Parts() {
		for _, pid := range pids {
			fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
			n[part+" descriptors"] += len(fds)
			n[part+" processes"]++
			n["zombies"] += zombies(pid)
		}
	}
	return n
}

// zombies counts the children of pid that nobody waits for.
func zombies(pid int) (n int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, l := range lists {
		b, _ := os.ReadFile(l)
		for child := range strings.FieldsSeq(string(b)) {
			st, _ := os.ReadFile("/proc/" + child + "/stat")
			if _, rest, ok := strings.Cut(string(st), ") "); ok && strings.HasPrefix(rest, "Z") {
				n++
			}
		}
	}
	return n
}

// judge compares what happened with what may.
func (s *soak) judge() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.outages(time.Now())
	s.t.Log(s.summary(list))
	for _, r := range s.never {
		s.t.Errorf("%s: %+v", r.What, r)
	}
	for i, b := range s.unexcused() {
		if i == 20 {
			s.t.Errorf("and more")
			break
		}
		s.t.Error(b)
	}
	for _, o := range list {
		if o.took > backBound {
			s.t.Errorf("%s is not back %v after the kill of the %s", o.route, o.took, o.victim)
		}
	}
	for _, r := range s.routes {
		if s.conns[r] == 0 {
			s.t.Errorf("no connection by %s came out well", r)
		}
	}
}

// fail ends the test since something happened that never must.
func (s *soak) fail() {
	s.t.Helper()
	s.hung()
	s.judge()
	s.t.FailNow()
}

// hung tells where all processes stand.
func (s *soak) hung() {
	for _, pid := range s.Processes() {
		read := func(name string) string {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
			return strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " "))
		}
		s.t.Logf("%d %s", pid, read("cmdline"))
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		for _, task := range tasks {
			at := "task/" + task.Name() + "/"
			s.t.Logf("  %s %s: %s", task.Name(), read(at+"syscall"), strings.ReplaceAll(read(at+"stack"), "\n", " "))
		}
	}
	st, err := s.status()
	s.t.Logf("status %+v %v", st, err)
}
