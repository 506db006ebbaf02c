//go:build linux

package wine

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"drvsock/internal/control"
)

// daemonCommands are used as in WSL: drvsock.exe is found on the PATH, the daemon
// starts when it is needed, and what is saved comes back.
func daemonCommands(s *stage) {
	d := s.newDaemon()
	// What WSL's interop is to a Windows program on the PATH.
	bin := d.at("bin")
	script := fmt.Sprintf("#!/bin/sh\nexec %s '%s' \"$@\"\n", s.wine.Wrapper(), s.wine.Windows(s.exe))
	for _, err := range []error{
		os.Mkdir(bin, 0o755),
		os.WriteFile(filepath.Join(bin, "drvsock.exe"), []byte(script), 0o755),
	} {
		if err != nil {
			s.t.Fatal(err)
		}
	}
	s.t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	if err := os.WriteFile(d.at("config/drvsock/config.toml"), fmt.Appendf(nil, "drive = [%s]\n", strconv.Quote("C="+s.world.view)), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if out, code := d.try("status"); code != 1 || !strings.Contains(out, "no daemon runs") {
		s.t.Errorf("status without a daemon: exit code %d, %q", code, out)
	}
	host, pipe := d.windows("w"), d.pipe("p")
	d.want("saved", d.forward("--save", "--name=saved", d.at("s"), host), "saved")
	d.want("passing", d.forward("--name=passing", pipe, d.at("l")), "passing")
	rows := func(states ...string) {
		s.t.Helper()
		var want [][]string
		for i, f := range [][]string{{"saved", "", "yes", d.at("s"), host}, {"passing", "", "no", pipe, d.at("l")}} {
			if i < len(states) {
				f[1] = states[i]
				want = append(want, f)
			}
		}
		if diff := cmp.Diff(want, fields(d.do("forward", "list"))); diff != "" {
			s.t.Errorf("list: want (-), got (+):\n%s", diff)
		}
	}
	rows("listening", "listening")
	link := func(link control.LinkStatus) {
		s.t.Helper()
		if link.State != control.LinkUp || link.OS != "windows" || link.Build == "" || link.Command != filepath.Join(bin, "drvsock.exe")+" agent" {
			s.t.Errorf("link %+v", link)
		}
	}
	st := d.status()
	link(st.Links[0])

	// For people.
	server := s.start(s.win(peerExe, "post", "w")).says("Accepting connections on: 'w'")
	s.want("client", s.output(s.command(0, d.dir, []string{d.peer(), "get", "s"})), "af_unix from Windows to WSL!")
	server.wait()
	d.activeOf("saved", 0)
	said := false
	for _, row := range fields(d.do("status")) {
		if row[0] == "saved" && len(row) > 2 {
			row[2] = "" // since when
			said = true
			if diff := cmp.Diff([]string{"saved", "listening", "", "0", "1", "0", "B", "28", "B", d.at("s"), host}, row); diff != "" {
				s.t.Errorf("status: want (-), got (+):\n%s", diff)
			}
		}
	}
	if !said {
		s.t.Error("status doesn't say a word of it")
	}

	// The daemon's link is run's too.
	server = s.start(s.win(peerExe, "post", "w")).says("Accepting connections on: 'w'")
	run := d.drvsock("run", "--", d.peer(), "get", filepath.Join(d.stage.view, "w"))
	s.want("run", s.output(run), "af_unix from Windows to WSL!")
	server.wait()
	if now := d.status(); now.Links[0].PID != st.Links[0].PID || now.Daemon.PID != st.Daemon.PID {
		s.t.Errorf("run had another link: %+v, then %+v", st.Links[0], now.Links[0])
	}

	d.do("down")
	if alive := unix.Kill(st.Links[0].PID, 0) == nil; alive {
		s.t.Error("the agent is there after down")
	}
	if _, err := os.Lstat(d.at("s")); err == nil {
		s.t.Error("a listener's socket is there after down")
	}
	rows("down")
	d.do("up", "--wait")
	rows("listening")
	link(d.status().Links[0])
	d.do("forward", "rm", "--save", "saved")
	rows()
	d.do("down")

	out, code := d.try("up", "--wait", "--link", "echo this is no agent >&2; false")
	if code != 1 || !strings.Contains(out, "this is no agent") {
		s.t.Errorf("up with a wrong link: exit code %d, %q", code, out)
	}
}

// fields are the rows of a table without its head, with what is in each column.
func fields(table string) [][]string {
	var rows [][]string
	for i, line := range strings.Split(strings.TrimSuffix(table, "\n"), "\n") {
		if f := strings.Fields(line); i > 0 && len(f) > 0 {
			rows = append(rows, f)
		}
	}
	return rows
}

// agentKilledForwards kills drvsock.exe under connections by forwards: both ends of
// each learn of it, and the listeners come back.
func agentKilledForwards(s *stage) {
	d := s.daemon()
	there := d.hand()
	up, down, file := d.pipe("u"), d.pipe("d"), filepath.Join(d.host, "S")
	l := d.listen("l")
	d.forward("--name=up", d.at("s"), up)
	d.forward("--name=down", down, d.at("l"))
	d.forward("--name=file", "assuan:"+d.windows("S"), d.at("l"))
	before, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	begin := func() (a, b hands) {
		there.wants("ok", "serve-byte 1 %s", up)
		a = hands{d.stage, d.dial("s"), there, "1"}
		there.wants("ok", "accept 1")
		there.wants("ok", "connect 2 %s", down)
		b = hands{d.stage, d.accept(l), there, "2"}
		a.bytes(1000)
		b.bytes(1000)
		return a, b
	}
	a, b := begin()
	there.ask("read 1")
	if !there.quiet(still) {
		s.t.Fatal("nothing was sent")
	}
	killed := s.agent()
	_ = unix.Kill(killed, unix.SIGKILL)
	there.says(brokenPipe)
	there.wants(brokenPipe, "read 2")
	for _, h := range []hands{a, b} {
		if n, err := h.here.Read(make([]byte, 1)); n > 0 || err == nil {
			s.t.Errorf("read: %d bytes, %v", n, err)
		}
		there.wants("ok", "close %s", h.end)
	}
	for _, name := range []string{"down", "file"} {
		if !soon(limit, func() bool { return d.forwarded(name).State == "listening" }) {
			s.t.Fatalf("%+v", d.forwarded(name))
		}
	}
	if s.agent() == killed {
		s.t.Error("the agent is the one that was killed")
	}
	begin()
	if after, err := os.ReadFile(file); err != nil || string(after) == string(before) {
		s.t.Errorf("the file is %q, %v, as before", after, err)
	}
	left, err := filepath.Glob(filepath.Join(d.host, ".*"))
	if len(left) > 0 || err != nil {
		s.t.Errorf("left over: %q, %v", left, err)
	}
}
