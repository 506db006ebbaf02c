//go:build linux

package rig

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Nobody is an account that has an entry in passwd, as fusermount3 wants.
const Nobody = 65534

// endWithin bounds the start and the end of a mount.
const endWithin = 30 * time.Second

// A Log keeps what a program says.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write adds to it.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// String is all that was said.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A Mount is a running `drvsock mount`.
type Mount struct {
	Dir   string
	Cmd   *exec.Cmd
	Said  Log
	tb    testing.TB
	ended bool
}

// Mount lays drvsock's mount over the view, as the user by (0: the caller) and
// with an agent of the agent's account. It lasts as long as the test.
func (r *Rig) Mount(by uint32, flags ...string) *Mount {
	r.tb.Helper()
	link := fmt.Sprintf("exec %s agent --drive C=%s", r.Bin, r.Host)
	if r.opts.Agent != by {
		link = fmt.Sprintf("exec setpriv --reuid %d --regid %[1]d --clear-groups %s", r.opts.Agent, strings.TrimPrefix(link, "exec "))
	}
	args := append([]string{"mount", "--foreground", "-v", "--link", link, "--drive", "C=" + r.View}, flags...)
	m := NewMount(r.tb, r.View, by, r.Bin, append(args, r.View)...)
	m.Start()
	return m
}

// NewMount prepares a command that mounts dir, as the user by.
func NewMount(tb testing.TB, dir string, by uint32, bin string, args ...string) *Mount {
	tb.Helper()
	// Not by Rig.command: what that starts is killed before the test's cleanup.
	m := &Mount{Dir: dir, tb: tb, Cmd: exec.Command(bin, args...)}
	m.Cmd.Dir = "/"
	m.Cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if by != 0 {
		m.Cmd.SysProcAttr.Credential = &syscall.Credential{Uid: by, Gid: by}
	}
	return m
}

// Start starts it and waits until the view can be used.
func (m *Mount) Start() {
	m.tb.Helper()
	m.Cmd.Stderr, m.Cmd.Stdout = &m.Said, &m.Said
	if err := m.Cmd.Start(); err != nil {
		m.tb.Fatal(err)
	}
	m.tb.Cleanup(m.End)
	for end := time.Now().Add(endWithin); !strings.Contains(m.Said.String(), "mounted "); time.Sleep(time.Millisecond) {
		if time.Now().After(end) || !alive(m.Cmd.Process.Pid) {
			m.tb.Fatalf("not mounted:\n%s", m.Said.String())
		}
	}
}

// Kill ends it as a crash would, and waits for its end.
func (m *Mount) Kill() {
	m.tb.Helper()
	m.ended = true
	_ = m.Cmd.Process.Kill()
	_ = m.Cmd.Wait()
}

// End ends it as a service manager would. The test fails if that takes long.
func (m *Mount) End() {
	m.tb.Helper()
	if m.ended {
		return
	}
	m.ended = true
	_ = m.Cmd.Process.Signal(unix.SIGTERM)
	late := time.AfterFunc(endWithin, func() {
		m.tb.Errorf("the mount did not end:\n%s", m.Said.String())
		_ = m.Cmd.Process.Kill()
		_ = unix.Unmount(m.Dir, unix.MNT_DETACH)
	})
	defer late.Stop()
	if err := m.Cmd.Wait(); err != nil {
		m.tb.Errorf("mount: %v\n%s", err, m.Said.String())
	}
	if m.tb.Failed() {
		m.tb.Logf("the mount said:\n%.20000s", m.Said.String())
	}
}
