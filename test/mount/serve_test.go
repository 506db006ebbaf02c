//go:build linux

package mount

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

	"drvsock/test/rig"
)

// mounted is a running `drvsock mount` over a rig's view.
type mounted struct {
	t     testing.TB
	dir   string
	cmd   *exec.Cmd
	heard log
	ended bool
}

// log is what the mount says.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *log) count(word string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), word)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// wait waits until word was said n times, for some time.
func (l *log) wait(word string, n int, limit time.Duration) bool {
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		if l.count(word) >= n {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// An account says who mounts and under whom the agent runs; 0 is the caller.
type account struct{ mounter, agent uint32 }

func mountAs(t testing.TB, r *rig.Rig, by account, args ...string) *mounted {
	t.Helper()
	m := &mounted{t: t, dir: r.View}
	link := fmt.Sprintf("exec %s agent --drive C=%s", r.Bin, r.Host)
	if by.agent != by.mounter {
		link = strings.Replace(link, "exec ", fmt.Sprintf("exec setpriv --reuid %d --regid %[1]d --clear-groups ", by.agent), 1)
	}
	argv := append([]string{r.Bin, "mount", "--foreground", "-v", "--link", link, "--drive", "C=" + r.View}, args...)
	// Not by the rig: what that starts is killed before the test's cleanup.
	m.cmd = exec.Command(r.Bin, append(argv[1:], r.View)...)
	m.cmd.Dir = "/"
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if by.mounter != 0 {
		m.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: by.mounter, Gid: by.mounter}
	}
	m.start()
	return m
}

func (m *mounted) start() {
	m.t.Helper()
	m.cmd.Stderr = &m.heard
	m.cmd.Stdout = &m.heard
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(m.end)
	if !m.heard.wait("mounted ", 1, limit) {
		m.t.Fatalf("not mounted:\n%s", m.heard.String())
	}
}

// kill ends it as a crash would.
func (m *mounted) kill() {
	m.t.Helper()
	m.ended = true
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
}

// end ends it as a service manager would.
func (m *mounted) end() {
	m.t.Helper()
	if m.ended {
		return
	}
	m.ended = true
	_ = m.cmd.Process.Signal(unix.SIGTERM)
	late := time.AfterFunc(limit, func() {
		m.t.Errorf("the mount did not end:\n%s", m.heard.String())
		_ = m.cmd.Process.Kill()
		_ = unix.Unmount(m.dir, unix.MNT_DETACH)
	})
	defer late.Stop()
	if err := m.cmd.Wait(); err != nil {
		m.t.Errorf("mount: %v\n%s", err, m.heard.String())
	}
	if m.t.Failed() {
		m.t.Logf("the mount said:\n%s", m.heard.String())
	}
}
