//go:build linux

package soak

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"drvsock/internal/control"
	"drvsock/test/rig"
)

// A site is a rig with a daemon of its own, whose configuration names the agent
// and a forward in each direction:
//
//	dir/fup.sock  →  C:\h.sock      C:\fdown.sock  →  dir/g.sock
//
// Programs in drvsock run serve n.sock on the drive.
type site struct {
	*rig.Rig
	t    *testing.T
	dir  string
	env  []string
	peer string   // the programs
	own  []string // files that a test has put into dir
}

// newSite makes one; link makes the link's command of the agent's, nil for the
// agent's own.
func newSite(t *testing.T, link func(s *site, agent string) string) *site {
	t.Helper()
	r := rig.New(t, rig.Options{})
	s := &site{Rig: r, t: t, dir: rig.Dir(t), peer: rig.Go(t, "drvsock/test/soak/peer")}
	s.env = []string{"XDG_RUNTIME_DIR=" + filepath.Join(s.dir, "run"), "XDG_CONFIG_HOME=" + filepath.Join(s.dir, "config")}
	for _, d := range []string{"run", "config", "config/drvsock"} {
		if err := os.Mkdir(filepath.Join(s.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	command := s.Agent()
	if link != nil {
		command = link(s, command)
	}
	text := fmt.Sprintf("link = %q\ndrive = [%q]\n", command, "C="+s.View)
	for _, f := range [][3]string{{"up", s.path("fup.sock"), `C:\h.sock`}, {"down", `C:\fdown.sock`, s.path("g.sock")}} {
		text += fmt.Sprintf("[[forward]]\nname = %q\nlisten = %q\nconnect = %q\n", f[0], f[1], f[2])
	}
	if err := os.WriteFile(s.path("config/drvsock/config.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(s.path("run/drvsock/daemon.log"))
			t.Logf("the end of the daemon's log:\n%s", b[max(0, len(b)-4000):])
		}
		// Not by command, whose programs end with the test's context.
		down := exec.Command(s.Bin, "down")
		down.Env = append(os.Environ(), s.env...)
		if out, err := down.CombinedOutput(); err != nil {
			t.Errorf("drvsock down: %v: %s", err, out)
		}
	})
	return s
}

// path is a file of the guest's.
func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// guest is a command of the guest's, with the site's daemon.
func (s *site) guest(argv ...string) *exec.Cmd {
	cmd := s.As(0, s.View, argv...)
	cmd.Env = append(cmd.Env, s.env...)
	return cmd
}

// host is a program of the host's, one of ours.
func (s *site) host(argv ...string) *exec.Cmd {
	cmd := s.OnHost(append([]string{s.peer}, argv...)...)
	cmd.Env = append(cmd.Env, s.env...)
	return cmd
}

// try runs drvsock with args and returns what it says on stdout, and an error
// with what it says on stderr.
func (s *site) try(args ...string) ([]byte, error) {
	cmd := s.guest(append([]string{s.Bin}, args...)...)
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	late := time.AfterFunc(40*time.Second, func() { _ = cmd.Cancel() })
	err := cmd.Wait()
	if !late.Stop() {
		s.t.Errorf("drvsock %q does not end", args)
	}
	if err != nil {
		err = fmt.Errorf("drvsock %q: %w: %s", args, err, words.Bytes())
	}
	return out.Bytes(), err
}

// do is try for what must work.
func (s *site) do(args ...string) []byte {
	s.t.Helper()
	out, err := s.try(args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *site) status() (*control.Status, error) {
	st := new(control.Status)
	b, err := s.try("status", "--json")
	if err == nil {
		err = json.Unmarshal(b, st)
	}
	return st, err
}

// programs lists the programs of ours that began with the words given.
func (s *site) programs(words ...string) []int {
	return slices.DeleteFunc(s.Processes(), func(pid int) bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		args := strings.Split(string(b), "\x00")
		return len(args) <= len(words) || args[0] == s.Bin || !slices.Equal(args[1:1+len(words)], words)
	})
}

// until waits for something to be so.
func until(t *testing.T, limit time.Duration, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}
