//go:build linux

package programs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// TestDBus is a session bus, which asks the kernel who its clients are.
func TestDBus(t *testing.T) {
	t.Parallel()
	daemon, send := program(t, "dbus-daemon", "dbus-daemon"), program(t, "dbus-bin", "dbus-send")
	everywhere(t, func(p *play) {
		conf := file(p.T, rig.Dir(p.T), "bus.conf", `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=`+p.server.path("bus")+`</listen>
  <policy context="default"><allow send_destination="*"/><allow eavesdrop="false"/><allow own="*"/></policy>
</busconfig>
`)
		bus := p.server.start(daemon, "--config-file="+conf, "--nofork", "--nopidfile", "--nosyslog")
		p.listens(bus, "bus")
		argv := []string{send, "--bus=unix:path=" + p.client.path("bus"), "--print-reply", "--dest=org.freedesktop.DBus",
			"/org/freedesktop/DBus", "org.freedesktop.DBus.ListNames"}
		p.failsWithout(argv...)
		if got := p.client.output(argv...); !strings.Contains(got, `string "org.freedesktop.DBus"`) {
			p.Errorf("ListNames: got %s", got)
		}
		bus.End(unix.SIGTERM)
	})
}

// TestTmux is a server that goes to the background and takes descriptors of
// its clients: within one run all of it works, as on one system.
func TestTmux(t *testing.T) {
	t.Parallel()
	tmux := program(t, "tmux", "tmux")
	everywhere(t, func(p *play) {
		if p.server.guest != p.client.guest {
			return // a client's terminal is a descriptor, which can't cross
		}
		script := file(p.T, rig.Dir(p.T), "script", `set -e
export SHELL=/bin/sh
t="$1 -f /dev/null -S $2"
$t new-session -d -s one 'sleep 60'
$t new-session -d -s two 'sleep 60'
$t list-sessions -F '#{session_name}'
$t kill-server
`)
		cmd := p.server.command("/bin/sh", script, tmux, p.server.path("tmux"))
		cmd.Stderr = nil // the server has it
		if got := output(p.T, cmd); got != "one\ntwo" {
			p.Errorf("list-sessions: got %q", got)
		}
	})
}

// TestTmuxAcross is the documented limit: between systems the descriptors that a
// tmux client sends are refused, and so it ends, in good time.
func TestTmuxAcross(t *testing.T) {
	t.Parallel()
	tmux := program(t, "tmux", "tmux")
	r := rig.New(t, rig.Options{})
	sock := filepath.Join(r.View, "tmux")
	server := r.Run(tmux, "-D", "-f", "/dev/null", "-S", sock)
	server.Stderr = nil
	p := start(t, server)
	waitFor(t, filepath.Join(r.Host, "tmux"))
	client := r.Run(tmux, "-S", sock, "list-sessions")
	client.Stderr = nil
	begin := time.Now()
	out, code := rig.Output(t, client, limit)
	t.Logf("a client in another run: exit code %d after %v, %q", code, time.Since(begin), out)
	if code == 0 {
		t.Error("a client of another run got what needs a descriptor")
	}
	p.End(unix.SIGTERM)
}

func waitFor(t *testing.T, path string) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not appear", path)
		}
	}
}
