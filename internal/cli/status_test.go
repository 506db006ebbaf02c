package cli

import (
	"strings"
	"testing"
	"time"

	"drvsock/internal/control"
)

// TestStatusTransport wants a line that says by what a link goes, where there is
// something to say.
func TestStatusTransport(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		link control.LinkStatus
		want string
	}{
		{control.LinkStatus{Transport: "command", Reason: "no Hyper-V socket: no answer from CID 2 port 9 within 3s"},
			"\n  over stdio: no Hyper-V socket: no answer from CID 2 port 9 within 3s\n"},
		{control.LinkStatus{Transport: "hyperv", Reason: "port 1073741825"}, "\n  over a Hyper-V socket: port 1073741825\n"},
		{control.LinkStatus{Transport: "command"}, ""},
		{control.LinkStatus{Build: "v1"}, "\n  the agent is build v1, the daemon v2\n"},
		{control.LinkStatus{Build: "v2"}, ""},
	} {
		c.link.State, c.link.Since, c.link.Command = control.LinkUp, now, "drvsock.exe agent"
		if c.link.Build == "" {
			c.link.Build = "v2"
		}
		var b strings.Builder
		writeStatus(&b, &control.Status{Daemon: control.DaemonStatus{Started: now, Build: "v2"}, Links: []control.LinkStatus{c.link}}, now)
		if got := b.String(); c.want == "" && strings.Count(got, "\n  ") > 0 || !strings.Contains(got, c.want) {
			t.Errorf("want %q in\n%s", c.want, got)
		}
	}
}

// TestStatusForeign has an agent, a caller and a program name that want to be
// more than text.
func TestStatusForeign(t *testing.T) {
	now := time.Now()
	st := &control.Status{Daemon: control.DaemonStatus{Started: now, Build: "v"}, Links: []control.LinkStatus{{
		State: control.LinkWaiting, Since: now, Command: "sh\t-c",
		LastError: &control.Problem{Layer: "link", Text: "\x1b[2J\nFORWARD", Hint: "\x07", When: now},
	}}, Sessions: []control.SessionStatus{{Program: "x\x1b]0;t\a\ny", Since: now}}}
	var b strings.Builder
	writeStatus(&b, st, now)
	got := b.String()
	if strings.ContainsAny(got, "\x1b\x07\t") {
		t.Errorf("control characters in %q", got)
	}
	for _, want := range []string{`sh\t-c`, "link: \\x1b[2J\\nFORWARD\n", "hint: \\a\n", "\nx\\x1b]0;t\\a\\ny "} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}
