//go:build linux

package mount

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
	makeCalls()
	rig.Main(m)
}

// limit bounds what must not hang.
const limit = 10 * time.Second

// accounts are the ways that most scenarios are played in: all as root; with
// programs of a user in a mount of root's; with a user's own mount.
var accounts = []struct {
	name           string
	uid, mountedBy uint32
}{{"root", 0, 0}, {"user", rig.User, 0}, {"own", nobody, nobody}}

// nobody is an account that has an entry in passwd, as fusermount3 wants.
const nobody = 65534

// A stage has programs of the guest and of the host on it, and writes down what
// they see.
type stage struct {
	t       *testing.T
	rig     *rig.Rig
	mounted *mounted // the guest's programs are in a mount
	run     bool     // the guest's programs are in drvsock run
	dir     string   // folder of this play, in View and Host
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
	m, line := p.s.mounted, fmt.Sprintf(format, args...)
	n := 0
	if m != nil {
		n = m.heard.count("listening")
	}
	a := p.answer(line)
	if m != nil && p.who == "near" && strings.HasPrefix(line, "listen ") && a == "ok" {
		m.heard.wait("listening", n+1, time.Second)
	}
	return a
}

// answer writes down what came of a call that was asked before.
func (p *player) answer(line string) string {
	p.s.t.Helper()
	a := p.Answer()
	p.s.note("%s: %s: %s", p.who, line, a)
	return a
}

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
		cmd = s.rig.InView(argv...)
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
	fails string // what the guest gets in the view without drvsock
}

// play plays scenarios natively and through drvsock under each account and
// compares what is seen.
func play(t *testing.T, scenarios []scenario) {
	t.Helper()
	for _, acc := range accounts {
		t.Run(acc.name, func(t *testing.T) { playAs(t, acc.uid, acc.mountedBy, scenarios) })
	}
}

func playAs(t *testing.T, uid, mountedBy uint32, scenarios []scenario) {
	t.Helper()
	o := rig.Options{Agent: uid, Program: uid}
	through := rig.New(t, o)
	by := account{mounter: mountedBy, agent: uid}
	o.Plain = true
	native := rig.New(t, o)
	m := mountAs(t, through, by)
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			want := perform(t, native, nil, sc)
			if t.Failed() {
				return
			}
			got := perform(t, through, m, sc)
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("natively (-) is not as through drvsock (+):\n%s", d)
			}
		})
	}
}

// plays numbers the folders, whose names are all of one length.
var plays int

// perform plays sc once, in the mount m if that is not nil. Paths in what is seen are made the same on all stages.
func perform(t *testing.T, r *rig.Rig, m *mounted, sc scenario) (seen []string) {
	t.Helper()
	s := &stage{t: t, rig: r, run: m != nil, mounted: m}
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
	sc.play(s)
	s.near.End()
	s.far.End()
	// What a client's getpeername says is the server's own words on one machine,
	// and the name of the file in a mount.
	s.lines = slices.DeleteFunc(s.lines, func(l string) bool { return strings.HasPrefix(l, "near: getpeername") })
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
