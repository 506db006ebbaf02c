package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"drvsock/internal/build"
	"drvsock/internal/control"
	"drvsock/internal/report"
)

// watchEvery is how often `drvsock status --watch` looks.
const watchEvery = time.Second

func statusCommand(s Streams) *cobra.Command {
	var asJSON, watch bool
	cmd := &cobra.Command{
		Use:   "status [--json] [--watch]",
		Short: "Show the daemon, its links, forwards, mounts and sessions",
		Long: `Show what the daemon does and what went wrong last, with the layer that said so:
guest, link, agent or host. Exit code 1 if no daemon runs.`,
		Args: argCount(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if watch {
				var stop context.CancelFunc
				ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
				defer stop()
			}
			for {
				r, err := ask(ctx, control.Options{}, control.Request{Op: control.OpStatus})
				if err != nil {
					if ctx.Err() != nil {
						return nil
					}
					return err
				}
				if err := printStatus(s.Out, r.Status, asJSON, watch); err != nil {
					return err
				}
				if !watch {
					return nil
				}
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(watchEvery):
				}
			}
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON, with --watch one object per line")
	cmd.Flags().BoolVar(&watch, "watch", false, "show it anew each second")
	return cmd
}

func printStatus(w io.Writer, st *control.Status, asJSON, again bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		if !again {
			e.SetIndent("", "  ")
		}
		return e.Encode(st)
	}
	var b strings.Builder
	if again {
		// Clear the screen where there is one; elsewhere an empty line parts them.
		if f, ok := w.(*os.File); ok && isTerminal(f) {
			b.WriteString("\x1b[H\x1b[2J")
		} else {
			b.WriteString("\n")
		}
	}
	writeStatus(&b, st, time.Now())
	_, err := io.WriteString(w, b.String())
	return err
}

// isTerminal takes every character device but the null device for one.
func isTerminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}

// writeStatus writes tables for people.
func writeStatus(b *strings.Builder, st *control.Status, now time.Time) {
	d := st.Daemon
	fmt.Fprintf(b, "daemon up for %s, pid %d, build %s\n", ago(now, d.Started), d.PID, d.Build)
	fmt.Fprintf(b, "socket %s\nconfig %s\n", report.Line(d.Socket), report.Line(d.Config))
	if d.Log != "" {
		fmt.Fprintf(b, "log    %s\n", report.Line(d.Log))
	}
	if d.ConfigError != "" {
		fmt.Fprintf(b, "config not taken: %s\n", report.Text(d.ConfigError))
	}
	if own := build.Version(); own != d.Build {
		fmt.Fprintf(b, "this program is build %s: drvsock down ends the old one\n", own)
	}
	b.WriteByte('\n')
	t := table{b: b}
	t.head("AGENT", "STATE", "SINCE", "STREAMS", "IN", "OUT", "COMMAND")
	for _, l := range st.Links {
		name := l.Agent
		if name == "" {
			name = "default"
		}
		t.row(name, linkState(now, &l), ago(now, l.Since), fmt.Sprint(l.Streams), size(l.In), size(l.Out), l.Command)
		if l.Reason != "" {
			t.note("over %s: %s", transportName(l.Transport), l.Reason)
		}
		if l.State == control.LinkUp && l.Build != d.Build {
			t.note("the agent is build %s, the daemon %s", l.Build, d.Build)
		}
		if p := l.LastError; p != nil {
			t.note("%s", problem(now, p.When, p.Layer, p.Text))
			if p.Hint != "" && l.State != control.LinkUp {
				t.note("hint: %s", p.Hint)
			}
		}
	}
	t.end()
	if len(st.Forwards) > 0 {
		t.head("FORWARD", "STATE", "SINCE", "OPEN", "TOTAL", "IN", "OUT", "LISTEN", "CONNECT")
		for _, f := range st.Forwards {
			listen := f.Listen
			if f.Address != "" {
				listen = f.Address
			}
			t.row(f.Name, string(f.State), ago(now, f.Since), fmt.Sprint(f.Active), fmt.Sprint(f.Total), size(f.In), size(f.Out), listen, f.Connect)
			if f.Refused+f.Failed > 0 {
				t.note("%d refused, %d not connected", f.Refused, f.Failed)
			}
			if p := f.LastError; p != nil {
				t.note("%s", problem(now, p.When, p.Layer, p.Text))
			}
		}
		t.end()
	}
	if len(st.Mounts) > 0 {
		t.head("MOUNT", "STATE", "SINCE", "STREAMS", "LISTENERS", "HOST")
		for _, m := range st.Mounts {
			t.row(m.Dir, m.State, ago(now, m.Since), fmt.Sprint(m.Streams), fmt.Sprint(m.Listeners), m.HostPath)
			if p := m.LastError; p != nil && m.State != control.MountServed {
				t.note("%s ago: %s", ago(now, p.When), p.Text)
				if p.Hint != "" {
					t.note("hint: %s", p.Hint)
				}
			}
		}
		t.end()
	}
	if len(st.Sessions) > 0 {
		t.head("RUN", "PID", "AGENT", "SINCE", "STREAMS", "LISTENERS", "IN", "OUT")
		for _, s := range st.Sessions {
			agent := s.Agent
			if agent == "" {
				agent = "default"
			}
			t.row(s.Program, fmt.Sprint(s.PID), agent, ago(now, s.Since), fmt.Sprint(s.Streams), fmt.Sprint(s.Listeners), size(s.In), size(s.Out))
			if p := s.LastError; p != nil {
				t.note("%d refused", s.Refused)
				t.note("%s", problem(now, p.When, p.Layer, p.Text))
			}
		}
		t.end()
	}
}

// problem is what went wrong, when, and which layer said so.
func problem(now, when time.Time, layer, text string) string {
	if !strings.HasPrefix(text, layer+": ") {
		text = layer + ": " + text
	}
	return fmt.Sprintf("%s ago: %s", ago(now, when), text)
}

// transportName is a way of links as people see it.
func transportName(kind string) string {
	switch kind {
	case "command":
		return "stdio"
	case "hyperv":
		return "a Hyper-V socket"
	}
	return kind
}

func linkState(now time.Time, l *control.LinkStatus) string {
	if l.State == control.LinkWaiting && l.NextTry != nil {
		return fmt.Sprintf("%s %s", l.State, max(l.NextTry.Sub(now), 0).Round(100*time.Millisecond))
	}
	return l.State
}

// A table has rows in columns, and notes between them that are in none.
type table struct {
	b    *strings.Builder
	rows []string // cells parted by tabs; a note begins with a space
}

func (t *table) head(cells ...string) {
	if t.rows == nil && t.b.Len() > 0 && !strings.HasSuffix(t.b.String(), "\n\n") {
		t.b.WriteByte('\n')
	}
	t.row(cells...)
}

func (t *table) row(cells ...string) {
	clean := make([]string, len(cells))
	for i, c := range cells {
		clean[i] = report.Line(c)
	}
	t.rows = append(t.rows, strings.Join(clean, "\t"))
}

func (t *table) note(format string, args ...any) {
	t.rows = append(t.rows, "  "+report.Line(fmt.Sprintf(format, args...)))
}

// end writes the table. The notes must not widen its first column.
func (t *table) end() {
	var cells strings.Builder
	w := tabwriter.NewWriter(&cells, 0, 0, 2, ' ', 0)
	for _, r := range t.rows {
		if !strings.HasPrefix(r, " ") {
			fmt.Fprintln(w, r)
		}
	}
	_ = w.Flush() // a strings.Builder takes all
	lines := strings.Split(cells.String(), "\n")
	for _, r := range t.rows {
		if strings.HasPrefix(r, " ") {
			t.b.WriteString(r + "\n")
			continue
		}
		t.b.WriteString(strings.TrimRight(lines[0], " ") + "\n")
		lines = lines[1:]
	}
	t.rows = nil
}

// ago is how long ago t was, as people say it.
func ago(now, t time.Time) string {
	d := max(now.Sub(t), 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}

// size is a number of bytes in at most four digits and a unit.
func size(n uint64) string {
	if n < 10_000 {
		return fmt.Sprintf("%d B", n)
	}
	f, units := float64(n)/1024, "KMGTPE"
	for f >= 9999.5 {
		f, units = f/1024, units[1:]
	}
	return fmt.Sprintf("%.0f %ciB", f, units[0])
}
