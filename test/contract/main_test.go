//go:build linux

package contract

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"drvsock/test/rig"
)

func TestMain(m *testing.M) {
	if os.Getenv(roleVar) != "" {
		if err := role(os.Args[1:]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	rig.Main(m)
}

// limit bounds what must not hang.
const limit = 10 * time.Second

// A way is one into drvsock, under an account.
type way struct {
	name    string
	uid     uint32 // of programs and agent
	by      string // as the flag of drvsock run, "" for none
	mount   bool   // drvsock mount instead of drvsock run
	mounter uint32 // whose mount it is
}

// accounts are drvsock run's: as root, and as an ordinary user whose filter needs
// NO_NEW_PRIVS.
var accounts = []way{{name: "root"}, {name: "user", uid: rig.User}}

// ways are the accounts with both ways of drvsock run: the filter, and the mounts
// that it falls back to where no filter can be had.
var ways = append(slices.Clip(accounts),
	way{name: "root by mount", by: "mount"}, way{name: "user by mount", uid: rig.User, by: "mount"})

// mounts are those of drvsock mount: all as root, a user in the mount of root, and
// one in a mount of his own.
var mounts = []way{
	{name: "mount, root", mount: true},
	{name: "mount, user", uid: rig.User, mount: true},
	{name: "mount, own", uid: rig.Nobody, mount: true, mounter: rig.Nobody},
}

// stages are where scenarios are played.
var stages = append(slices.Clip(accounts), mounts...)

// few are the ways for a test that chooses the accounts itself.
var few = []way{{name: "filter", by: "filter"}, {name: "by mount", by: "mount"}, {name: "mount", mount: true}}

// inFolder tells if sockets work by a file system.
func (w way) inFolder() bool { return w.mount || w.by == "mount" }

// options are those of a rig for a way.
func (w way) options() rig.Options {
	o := rig.Options{Agent: w.uid, Program: w.uid}
	w.flags(&o)
	return o
}

// flags has the rig's drvsock run go this way.
func (w way) flags(o *rig.Options) {
	if w.by != "" {
		o.Flags = []string{"--by", w.by}
	}
}

// open has programs in the rig's view go this way; it returns how one is
// started.
func (w way) open(r *rig.Rig) func(argv ...string) *exec.Cmd {
	if !w.mount {
		return r.Run
	}
	r.Mount(w.mounter)
	return r.InView
}

// everyWay runs a test for each of some ways.
func everyWay(t *testing.T, ways []way, fn func(t *testing.T, w way)) {
	t.Helper()
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) { fn(t, w) })
	}
}

// A stage has programs of the guest and of the host on it, and writes down what
// they see.
type stage struct {
	t       *testing.T
	rig     *rig.Rig
	way     way                            // that is played, or compared with
	drvsock bool                           // the guest's programs use drvsock that way, else not at all
	start   func(argv ...string) *exec.Cmd // of a program of the guest
	until   string                         // the play ends when the guest gets this answer, "" for never
	dir     string                         // folder of this play, in View and Host
	near    *player
	far     *player
	lines   []string
}

// A player is a probe whose answers are written down.
type player struct {
	*rig.Probe
	s   *stage
	who string
}

// do makes a call and writes it and its answer down.
func (p *player) do(format string, args ...any) string {
	p.s.t.Helper()
	p.Ask(format, args...)
	return p.answer(fmt.Sprintf(format, args...))
}

// answer writes down what came of a call that was asked before.
func (p *player) answer(line string) string {
	p.s.t.Helper()
	a := p.Answer()
	p.s.note("%s: %s: %s", p.who, line, a)
	if u := p.s.until; u != "" && p.who == "near" && strings.HasPrefix(a, u) {
		panic(curtain{})
	}
	return a
}

// curtain is the panic that ends a play.
type curtain struct{}

// all makes calls one after the other.
func (p *player) all(lines ...string) {
	p.s.t.Helper()
	for _, l := range lines {
		p.do("%s", l)
	}
}

func (s *stage) note(format string, args ...any) {
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

// path is a file of this play as the guest sees it, absolute.
func (s *stage) path(name string) string { return filepath.Join(s.rig.View, s.dir, name) }

// player starts a program on the guest's side, or the host's.
func (s *stage) player(who string, host bool, argv ...string) *player {
	s.t.Helper()
	var cmd *exec.Cmd
	switch {
	case host:
		cmd = s.rig.OnHost(argv...)
		cmd.Dir = filepath.Join(s.rig.Host, s.dir)
	default:
		cmd = s.start(argv...)
		cmd.Dir = filepath.Join(s.rig.View, s.dir)
	}
	return &player{Probe: rig.StartProbe(s.t, cmd), s: s, who: who}
}

// A scenario is played the same on every stage.
type scenario struct {
	name  string
	flags []string // of the guest's probe
	argv  []string // what starts the guest's probe, as in sudo
	play  func(*stage)
	// fails is an answer that the guest must get in the view without drvsock,
	// "" if the scenario is not one for that.
	fails string
}

// play plays scenarios natively and each way through drvsock and compares what is
// seen.
func play(t *testing.T, scenarios []scenario) {
	t.Helper()
	everyWay(t, stages, func(t *testing.T, w way) { playBy(t, w, scenarios) })
}

func playBy(t *testing.T, w way, scenarios []scenario) {
	t.Helper()
	o := w.options()
	through := rig.New(t, o)
	o.Plain = true
	native := rig.New(t, o)
	start := w.open(through)
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			want := natively(t, native, w, sc)
			if t.Failed() {
				return
			}
			if sc.fails != "" && !w.mount { // in whose view it does not fail
				bare := perform(t, through, w, nil, sc.fails, sc)
				if last := bare[len(bare)-1]; !strings.Contains(last, ": "+sc.fails) {
					t.Errorf("without drvsock nothing fails with %s", sc.fails)
				}
			}
			got := perform(t, through, w, start, "", sc)
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("natively (-) is not as through drvsock (+):\n%s", d)
			}
		})
	}
}

// played are the plays on one machine, which are the same for all ways of a kind
// under one account.
var played = map[string][]string{}

func natively(t *testing.T, r *rig.Rig, w way, sc scenario) []string {
	t.Helper()
	test, _, _ := strings.Cut(t.Name(), "/")
	key := fmt.Sprint(test, " ", sc.name, " ", w.uid, w.inFolder())
	if played[key] == nil {
		played[key] = perform(t, r, w, nil, "", sc)
	}
	return played[key]
}

// plays numbers the folders, whose names are all of one length.
var plays int

// perform plays sc once, or up to the answer until; start starts the guest's
// programs, nil if they are to do without drvsock. Paths in what is seen are made
// the same on all stages.
func perform(t *testing.T, r *rig.Rig, w way, start func(...string) *exec.Cmd, until string, sc scenario) (seen []string) {
	t.Helper()
	s := &stage{t: t, rig: r, way: w, drvsock: start != nil, start: start, until: until}
	if start == nil {
		s.start = r.InView
	}
	plays++
	s.dir = fmt.Sprintf("p%04d", plays)
	dir := filepath.Join(r.Host, s.dir)
	for _, err := range []error{os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if st, err := os.Stat(r.Host); err == nil {
		chownAs(t, dir, st)
	}
	s.near = s.player("near", false, append(slices.Clone(sc.argv), rig.ProbeProgram(t, sc.flags...))...)
	s.far = s.player("far", true, rig.ProbeProgram(t))
	func() {
		defer func() {
			if v := recover(); v != nil && v != any(curtain{}) {
				panic(v)
			}
		}()
		sc.play(s)
	}()
	s.near.End()
	s.far.End()
	for i, l := range s.lines {
		l = strings.ReplaceAll(l, filepath.Join(r.View, s.dir), "DIR")
		s.lines[i] = strings.ReplaceAll(l, filepath.Join(r.Host, s.dir), "DIR")
	}
	return s.lines
}

// newRig is a rig with one account for all.
func newRig(t *testing.T, uid uint32) *rig.Rig {
	t.Helper()
	return rig.New(t, rig.Options{Agent: uid, Program: uid})
}
