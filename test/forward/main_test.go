//go:build linux

// Package forward plays what people use forwards for, with the drvsock program,
// its daemon and other people's programs, on both sides of an embedded host.
package forward

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"drvsock/internal/control"
	"drvsock/internal/forward"
	"drvsock/test/rig"
)

func TestMain(m *testing.M) {
	if os.Getenv(roleVar) != "" {
		os.Exit(role(os.Args[1:]))
	}
	rig.Main(m)
}

// limit bounds every program that should end or be ready, and every wait.
const limit = time.Minute

// A box is a machine with a daemon and a host whose drive C is a folder.
type box struct {
	*testing.T
	rig *rig.Rig
	uid uint32   // account of all programs, 0: the caller's
	dir string   // the guest's folder, which is that account's
	env []string // of the programs
	fds int      // descriptors of the daemon at rest
}

// newBox makes a box, without a daemon.
func newBox(t *testing.T, uid uint32) *box {
	t.Helper()
	r := rig.New(t, rig.Options{Agent: uid, Program: uid, Plain: true})
	b := &box{T: t, rig: r, uid: uid, dir: filepath.Join(rig.Dir(t), "g")}
	b.folder(b.dir, 0o755)
	for _, name := range []string{"run", "config", "config/drvsock"} {
		b.folder(b.path(name), 0o700)
	}
	b.env = []string{
		"HOME=" + b.dir, "XDG_RUNTIME_DIR=" + b.path("run"), "XDG_CONFIG_HOME=" + b.path("config"),
		"PATH=" + filepath.Dir(r.Bin) + ":" + os.Getenv("PATH"), "LC_ALL=C",
	}
	return b
}

// upBox makes a box with a daemon, and ends it with the test.
func upBox(t *testing.T, uid uint32) *box {
	t.Helper()
	b := newBox(t, uid)
	b.up()
	return b
}

func (b *box) up() {
	b.Helper()
	b.drvsock("up", "--wait", "--embed", "C="+b.rig.Host)
	b.fds = b.descriptors()
	b.Cleanup(b.down)
}

// down ends the daemon, after it has let go of all that the test made.
func (b *box) down() {
	st := b.status()
	if st == nil {
		return
	}
	for _, f := range st.Forwards {
		b.drvsock("forward", "rm", "--save", f.Name)
	}
	b.eventually("the daemon lets go of connections and descriptors", func() error {
		st := b.status()
		if n := b.descriptors(); n > b.fds+4 || st.Links[0].Streams > 0 || len(st.Sessions) > 0 {
			return fmt.Errorf("%d descriptors, %d at rest; %+v", n, b.fds, st.Links[0])
		}
		return nil
	})
	b.drvsock("down")
	left, err := os.ReadDir(b.path("run/drvsock"))
	if err != nil {
		b.Error(err)
	}
	for _, f := range left {
		if f.Type()&os.ModeSocket != 0 {
			b.Errorf("%s is left behind", f.Name())
		}
	}
	if lines := strings.SplitAfter(b.log(), "\n"); b.Failed() {
		b.Log(strings.Join(lines[max(0, len(lines)-40):], ""))
	}
}

// folder makes a folder that is the account's.
func (b *box) folder(path string, mode os.FileMode) {
	b.Helper()
	b.check(os.Mkdir(path, mode))
	b.check(os.Chmod(path, mode))
	if b.uid != 0 {
		b.check(os.Chown(path, int(b.uid), int(b.uid)))
	}
}

func (b *box) check(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// path is a file of the guest, host one of the host as this machine has it, and
// win the same as the host calls it.
func (b *box) path(name string) string { return filepath.Join(b.dir, name) }
func (b *box) host(name string) string { return filepath.Join(b.rig.Host, name) }
func (b *box) win(name string) string  { return `C:\` + strings.ReplaceAll(name, "/", `\`) }

// file writes a file that is the account's.
func (b *box) file(path, text string) string {
	b.Helper()
	b.check(os.WriteFile(path, []byte(text), 0o600))
	if b.uid != 0 {
		b.check(os.Chown(path, int(b.uid), int(b.uid)))
	}
	return path
}

// command is argv under the box's account. On which side it is, is a matter of
// what it is told.
func (b *box) command(argv ...string) *exec.Cmd {
	cmd := b.rig.As(b.uid, b.dir, argv...)
	cmd.Env = append(cmd.Env, b.env...)
	return cmd
}

// output is what argv prints, without the last line's end. It must end well.
func (b *box) output(argv ...string) string {
	b.Helper()
	return b.result(b.command(argv...))
}

func (b *box) result(cmd *exec.Cmd) string {
	b.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, code := rig.Output(b.T, cmd, limit)
	if code != 0 {
		b.Fatalf("%q: exit code %d\n%s%s", cmd.Args, code, out, stderr.String())
	}
	return strings.TrimSuffix(out, "\n")
}

// drvsock runs drvsock, which must do what it is asked for.
func (b *box) drvsock(args ...string) string {
	b.Helper()
	return b.output(append([]string{b.rig.Bin}, args...)...)
}

// fails runs argv, which must end with the exit code, and gives its stderr.
func (b *box) fails(code int, argv ...string) string {
	b.Helper()
	cmd := b.command(argv...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if out, got := rig.Output(b.T, cmd, limit); got != code {
		b.Errorf("%q: exit code %d, want %d\n%s%s", argv, got, code, out, stderr.String())
	}
	return stderr.String()
}

// start starts a program that goes on.
func (b *box) start(argv ...string) *rig.Process {
	b.Helper()
	return rig.Start(b.T, b.command(argv...), limit)
}

// status is what `drvsock status --json` says, nil if no daemon runs.
func (b *box) status() *control.Status {
	b.Helper()
	cmd := b.command(b.rig.Bin, "status", "--json")
	cmd.Stderr = nil
	out, code := rig.Output(b.T, cmd, limit)
	if code != 0 {
		return nil
	}
	st := new(control.Status)
	b.check(json.Unmarshal([]byte(out), st))
	return st
}

// forward is the status of one.
func (b *box) forward(name string) forward.Status {
	b.Helper()
	if st := b.status(); st != nil {
		for _, f := range st.Forwards {
			if f.Name == name {
				return f
			}
		}
	}
	b.Fatalf("no forward %s", name)
	return forward.Status{}
}

// address is what a forward listens on.
func (b *box) address(name string) string {
	b.Helper()
	return strings.TrimPrefix(b.forward(name).Address, "guest:")
}

// log is the daemon's.
func (b *box) log() string {
	b.Helper()
	text, err := os.ReadFile(b.path("run/drvsock/daemon.log"))
	b.check(err)
	return string(text)
}

// logged waits for a line of the daemon's log that has all words.
func (b *box) logged(words ...string) {
	b.Helper()
	b.eventually("the log says "+strings.Join(words, " … "), func() error {
		for line := range strings.Lines(b.log()) {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				return nil
			}
		}
		return fmt.Errorf("it says:\n%s", b.log())
	})
}

// descriptors counts those of the daemon.
func (b *box) descriptors() int {
	b.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.status().Daemon.PID))
	b.check(err)
	return len(list)
}

// eventually waits for ready to have no error.
func (b *box) eventually(what string, ready func() error) {
	b.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		err := ready()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			b.Fatalf("%s: never: %v", what, err)
		}
	}
}

// listens waits until a program takes connections.
func (b *box) listens(path string) {
	b.Helper()
	b.eventually("somebody listens on "+path, func() error {
		c, err := net.Dial("unix", path)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
}
