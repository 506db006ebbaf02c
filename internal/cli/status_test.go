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
