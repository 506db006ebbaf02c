package daemon_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/control"
	"drvsock/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// within bounds what must not take long.
const within = 10 * time.Second

// A site is a rig with a daemon of its own, whose configuration names the rig's
// agent, so that any daemon that is started there has that one.
type site struct {
	*rig.Rig
	t   *testing.T
	dir string
	env []string
}

func newSite(t *testing.T) *site {
	t.Helper()
	r := rig.New(t, rig.Options{})
	s := &site{Rig: r, t: t, dir: rig.Dir(t)}
	s.env = []string{"XDG_RUNTIME_DIR=" + filepath.Join(s.dir, "run"), "XDG_CONFIG_HOME=" + filepath.Join(s.dir, "config")}
	for _, d := range []string{"run", "config", "config/drvsock"} {
		if err := os.Mkdir(filepath.Join(s.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.configure("")
	t.Cleanup(func() {
		// Not by command, whose programs end with the test's context.
		down := exec.Command(s.Bin, "down")
		down.Env = append(os.Environ(), s.env...)
		if out, err := down.CombinedOutput(); err != nil {
			t.Errorf("drvsock down: %v: %s", err, out)
		}
	})
	return s
}

// configure writes the configuration: the rig's agent, and more.
func (s *site) configure(more string) {
	s.t.Helper()
	text := fmt.Sprintf("link = %q\ndrive = [%q]\n%s", s.Agent(), "C="+s.View, more)
	if err := os.WriteFile(filepath.Join(s.dir, "config/drvsock/config.toml"), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// socket is the path of the control socket.
func (s *site) socket() string { return filepath.Join(s.dir, "run/drvsock/control.sock") }

// command is drvsock with args at this site.
func (s *site) command(args ...string) *exec.Cmd {
	cmd := s.As(0, s.View, append([]string{s.Bin}, args...)...)
	cmd.Env = append(cmd.Env, s.env...)
	return cmd
}

// try runs drvsock with args and returns what it says and its exit code.
func (s *site) try(args ...string) (string, int) {
	s.t.Helper()
	cmd := s.command(args...)
	cmd.Stderr = nil
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Start()
	if err != nil {
		s.t.Fatal(err)
	}
	late := time.AfterFunc(30*time.Second, func() {
		s.t.Errorf("%q does not end", args)
		_ = cmd.Cancel()
	})
	_ = cmd.Wait()
	late.Stop()
	return out.String(), cmd.ProcessState.ExitCode()
}

// do is try for what must work.
func (s *site) do(args ...string) string {
	s.t.Helper()
	out, code := s.try(args...)
	if code != 0 {
		s.t.Fatalf("drvsock %q: exit code %d: %s", args, code, out)
	}
	return out
}

func (s *site) status() *control.Status {
	s.t.Helper()
	var st control.Status
	if err := json.Unmarshal([]byte(s.do("status", "--json")), &st); err != nil {
		s.t.Fatal(err)
	}
	return &st
}

// probe starts a program of the guest in drvsock run, by the daemon's link.
func (s *site) probe() *rig.Probe {
	s.t.Helper()
	return rig.StartProbe(s.t, s.command("run", "--", rig.ProbeProgram(s.t)))
}

// far starts a program of the host.
func (s *site) far() *rig.Probe {
	s.t.Helper()
	p := rig.StartProbe(s.t, s.OnHost(rig.ProbeProgram(s.t)))
	p.Want("ok", "umask 0")
	return p
}

// all makes calls that must come out as "ok".
func all(p *rig.Probe, calls ...string) {
	for _, c := range calls {
		p.Want("ok", "%s", c)
	}
}

// until waits for something to be so.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// kill ends a process the hard way.
func kill(t *testing.T, pid int) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("no process to kill: %d", pid)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// lines reads what a program says, line by line.
func lines(t *testing.T, cmd *exec.Cmd) <-chan string {
	t.Helper()
	cmd.Stderr = nil
	r, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := make(chan string, 1000)
	go func() {
		defer close(c)
		for sc := bufio.NewScanner(r); sc.Scan(); {
			c <- sc.Text()
		}
	}()
	return c
}
