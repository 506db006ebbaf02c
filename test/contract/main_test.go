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

// accounts are the ways that most scenarios are played in: as root, and as an
// ordinary user whose filter needs NO_NEW_PRIVS.
var accounts = []struct {
	name string
	uid  uint32
}{{"root", 0}, {"user", rig.User}}

// ways are the accounts with both ways in: the filter, and the mounts that run
// falls back to where no filter can be had.
var ways = []way{{"root", 0, ""}, {"user", rig.User, ""}, {"root by mount", 0, "mount"}, {"user by mount", rig.User, "mount"}}

type way struct {
	name string
	uid  uint32
	by   string // as the flag of drvsock run, "" for none
}

func (w way) options() rig.Options {
	o := rig.Options{Agent: w.uid, Program: w.uid}
	if w.by != "" {
		o.Flags = []string{"--by", w.by}
	}
	return o
}

// A stage has programs of the guest and of the host on it, and writes down what
// they see.
type stage struct {
	t     *testing.T
	rig   *rig.Rig
	run   bool   // the guest's programs are in drvsock run
	until string // the play ends when the guest gets this answer, "" for never
	dir   string // folder of this play, in View and Host
	near  *player
	far   *player
	lines []string
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
	case s.run:
		cmd = s.rig.Run(argv...)
		cmd.Dir = filepath.Join(s.rig.View, s.dir)
	default:
		cmd = s.rig.InView(argv...)
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

// play plays scenarios natively and through drvsock under each account and
// compares what is seen.
func play(t *testing.T, scenarios []scenario) {
	t.Helper()
	for _, acc := range accounts {
		t.Run(acc.name, func(t *testing.T) { playAs(t, way{uid: acc.uid}.options(), scenarios) })
	}
}

func playAs(t *testing.T, o rig.Options, scenarios []scenario) {
	t.Helper()
	through := rig.New(t, o)
	o.Plain = true
	native := rig.New(t, o)
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			want := perform(t, native, false, "", sc)
			if t.Failed() {
				return
			}
			if sc.fails != "" {
				bare := perform(t, through, false, sc.fails, sc)
				if last := bare[len(bare)-1]; !strings.Contains(last, ": "+sc.fails) {
					t.Errorf("without drvsock nothing fails with %s", sc.fails)
				}
			}
			got := perform(t, through, true, "", sc)
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("natively (-) is not as through drvsock (+):\n%s", d)
			}
		})
	}
}

// plays numbers the folders, whose names are all of one length.
var plays int

// perform plays sc once, or up to the answer until. Paths in what is seen are made the same on all stages.
func perform(t *testing.T, r *rig.Rig, run bool, until string, sc scenario) (seen []string) {
	t.Helper()
	s := &stage{t: t, rig: r, run: run, until: until}
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
