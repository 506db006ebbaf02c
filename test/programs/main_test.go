//go:build linux

package programs

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"drvsock/internal/standin"
	"drvsock/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// limit bounds every program that should end or be ready.
const limit = 30 * time.Second

// program is rig.Program.
func program(t *testing.T, pkg, name string) string {
	t.Helper()
	return rig.Program(t, pkg, name)
}

// A side is where a program runs.
type side struct {
	t     *testing.T
	rig   *rig.Rig
	guest bool   // in a drvsock run of its own
	dir   string // folder of this play, below the drive
}

// path is a file of this play as the side sees it.
func (s side) path(name string) string {
	if s.guest {
		return filepath.Join(s.rig.View, s.dir, name)
	}
	return filepath.Join(s.rig.Host, s.dir, name)
}

// command is argv on this side, in the folder of this play.
func (s side) command(argv ...string) *exec.Cmd {
	var cmd *exec.Cmd
	if s.guest {
		cmd = s.rig.Run(argv...)
	} else {
		cmd = s.rig.OnHost(argv...)
	}
	cmd.Dir = s.path("")
	return cmd
}

// output is the text that argv prints, without the last line's end. argv must
// end well.
func (s side) output(argv ...string) string {
	s.t.Helper()
	return output(s.t, s.command(argv...))
}

func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	return strings.TrimSuffix(string(raw(t, cmd)), "\n")
}

// raw is output to the byte.
func raw(t *testing.T, cmd *exec.Cmd) []byte {
	t.Helper()
	out, code := rig.Output(t, cmd, limit)
	if code != 0 {
		t.Fatalf("%q: exit code %d\n%s", cmd.Args, code, out)
	}
	return []byte(out)
}

// start starts argv, which ends with the play at the latest.
func (s side) start(argv ...string) *rig.Process {
	s.t.Helper()
	return start(s.t, s.command(argv...))
}

func start(t *testing.T, cmd *exec.Cmd) *rig.Process {
	t.Helper()
	return rig.Start(t, cmd, limit)
}

// A play is a server and a client on their sides.
type play struct {
	*testing.T
	uid            uint32 // account of all programs, 0: the caller's
	server, client side
	hostPath       func(name string) string
}

// listens waits until the server takes connections of the host.
func (p *play) listens(server *rig.Process, name string) {
	p.Helper()
	p.until(server, func() error {
		c, err := net.Dial("unix", p.hostPath(name))
		if err == nil {
			_ = c.Close()
		}
		return err
	})
}

// until waits for ready to have no error, while server runs; nil is one that
// runs in the background.
func (p *play) until(server *rig.Process, ready func() error) {
	p.Helper()
	var ended chan error
	if server != nil {
		ended = server.Done
	}
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		err := ready()
		if err == nil {
			return
		}
		select {
		case e := <-ended:
			ended <- e
			p.Fatalf("%q ended: %v", server.Cmd.Args, e)
		default:
		}
		if time.Now().After(end) {
			p.Fatal(err)
		}
	}
}

// failsWithout shows that the client can't reach a server of the host without
// drvsock (gpg-connect-agent then says nothing and exits with 0).
func (p *play) failsWithout(argv ...string) {
	p.Helper()
	if p.server.guest || !p.client.guest {
		return
	}
	cmd := p.client.rig.InView(argv...)
	cmd.Dir = p.client.path("")
	cmd.Stderr = nil
	if out, code := rig.Output(p.T, cmd, limit); code == 0 && out != "" {
		p.Errorf("%q works without drvsock:\n%s", argv, out)
	}
}

// failsToServe shows that the server can't make its socket on the drive without
// drvsock.
func (p *play) failsToServe(argv ...string) {
	p.Helper()
	if p.server.guest || !p.client.guest {
		return // once is enough
	}
	cmd := p.client.rig.InView(argv...)
	cmd.Dir = p.client.path("")
	cmd.Stderr = nil
	if out, code := rig.Output(p.T, cmd, limit); code <= 0 {
		p.Errorf("%q without drvsock: exit code %d, want its own failure\n%s", argv, code, out)
	}
}

// folder makes a folder off the drive that belongs to the play's account.
func (p *play) folder() string {
	p.Helper()
	dir := filepath.Join(rig.Dir(p.T), "d")
	for _, err := range []error{os.Mkdir(dir, 0o700), os.Chown(dir, owner(p.uid), owner(p.uid))} {
		if err != nil {
			p.Fatal(err)
		}
	}
	return dir
}

func owner(uid uint32) int {
	if uid == 0 {
		return -1
	}
	return int(uid)
}

// sides are where server and client are.
var sides = []struct {
	name           string
	server, client bool // in drvsock run
}{
	{"native", false, false},
	{"guest serves", true, false},
	{"host serves", false, true},
	{"two runs", true, true},
}

// everywhere plays f on all sides, for the caller and for an ordinary user.
func everywhere(t *testing.T, f func(*play)) {
	t.Helper()
	for _, name := range []string{"caller", "user"} {
		t.Run(name, func(t *testing.T) {
			var uid uint32
			if name == "user" {
				uid = rig.Known(t)
			}
			as(t, uid, standin.Options{}, f)
		})
	}
}

// as plays f on all sides under an account.
func as(t *testing.T, uid uint32, view standin.Options, f func(*play)) {
	t.Helper()
	r := rig.New(t, rig.Options{Agent: uid, Program: uid, View: view})
	for i, sd := range sides {
		native := t.Run(sd.name, func(t *testing.T) {
			dir := strconv.Itoa(i)
			path := filepath.Join(r.Host, dir)
			for _, err := range []error{os.Mkdir(path, 0o755), os.Chown(path, owner(uid), owner(uid))} {
				if err != nil {
					t.Fatal(err)
				}
			}
			f(&play{
				T: t, uid: uid,
				server:   side{t, r, sd.server, dir},
				client:   side{t, r, sd.client, dir},
				hostPath: func(name string) string { return filepath.Join(path, name) },
			})
		})
		if i == 0 && !native {
			return // nothing is to be learned from the rest
		}
	}
}

// source is the absolute path of a file of testdata, copied to where everyone
// can read it.
func source(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return file(t, rig.Dir(t), name, string(b))
}

// file writes a file that everyone can read.
func file(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// pattern is n bytes in which a lost, repeated or swapped block shows.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// same compares bulk without printing it.
func same(t *testing.T, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("got %d bytes that are not the %d sent", len(got), len(want))
	}
}
