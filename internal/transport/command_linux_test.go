package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/report"
	"drvsock/internal/wire"
)

var quiet = slog.New(slog.DiscardHandler)

func guest() link.Config { return link.Config{Role: wire.RoleGuest} }

func self(t *testing.T) []string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{exe, "agent", t.TempDir()}
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// TestCommand makes links one after the other: each has an agent of its own,
// which ends with it, and nothing is left.
func TestCommand(t *testing.T) {
	c := &Command{Argv: self(t), Starter: Children(), Log: quiet}
	before := 0
	for i := range 3 {
		l, err := c.Dial(t.Context(), guest())
		if err != nil {
			t.Fatal(err)
		}
		if l.PID == 0 || unix.Kill(l.PID, 0) != nil {
			t.Errorf("the agent's process %d is not there", l.PID)
		}
		st, _, err := l.Open(t.Context(), wire.Request{Kind: wire.KindStat, Path: []byte(`C:\`)})
		if err != nil {
			t.Fatal(err)
		}
		_ = st.Close()
		done := make(chan struct{})
		for range 2 { // whoever calls second waits as well
			go func() {
				l.End()
				done <- struct{}{}
			}()
		}
		for range 2 {
			select {
			case <-done:
			case <-time.After(5 * time.Second):
				t.Fatal("End takes too long")
			}
			if unix.Kill(l.PID, 0) == nil {
				t.Error("the agent outlives End")
			}
		}
		if i == 0 {
			before = descriptors(t) // the runtime has made its own by now
		}
		// The agent's stderr is closed by whoever listens to it.
		for end := time.Now().Add(5 * time.Second); descriptors(t) > before; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d descriptors after link %d, %d before", descriptors(t), i, before)
			}
		}
	}
}

// TestLastWords has agents that never speak the protocol.
func TestLastWords(t *testing.T) {
	cases := []struct{ line, err, hint string }{
		{"echo no such account >&2; exit 3", "the other side ended without a word", "the agent's last words were: no such account"},
		{"exit 0", "the other side ended without a word", ""},
		{"echo Welcome; cat >/dev/null", `no drvsock hello, but "Welcome"`, ""},
	}
	for _, c := range cases {
		_, err := (&Command{Argv: []string{"/bin/sh", "-c", c.line}, Starter: Children(), Log: quiet}).Dial(t.Context(), guest())
		if err == nil || !strings.Contains(err.Error(), c.err) || report.HintOf(err) != c.hint {
			t.Errorf("%s: %v, hint %q, want %q, hint %q", c.line, err, report.HintOf(err), c.err, c.hint)
		}
	}
	if _, err := (&Command{Argv: []string{"/none"}, Starter: Children(), Log: quiet}).Dial(t.Context(), guest()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such program: %v", err)
	}
}

// TestAsks has a command that asks something at its terminal, which stops it: it
// isn't in the foreground there. A person is told what to do.
func TestAsks(t *testing.T) {
	cfg := guest()
	cfg.HelloTimeout = 100 * time.Millisecond
	_, err := (&Command{Argv: []string{"/bin/sh", "-c", "kill -STOP $$"}, Starter: Children(), Log: quiet}).Dial(t.Context(), cfg)
	if !errors.Is(err, errno.ETIMEDOUT) || !strings.Contains(report.HintOf(err), "try the command by itself") {
		t.Errorf("%v, hint %q", err, report.HintOf(err))
	}
}

// TestGivenUp ends the wait for an agent that says nothing: it and its children
// end too.
func TestGivenUp(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	why := errors.New("for a test")
	ctx, cancel := context.WithCancelCause(t.Context())
	var start time.Time
	go func() {
		for !ended(file) && t.Context().Err() == nil {
			time.Sleep(time.Millisecond)
		}
		start = time.Now()
		cancel(why)
	}()
	_, err := (&Command{Argv: []string{"/bin/sh", "-c", fmt.Sprintf("sleep 60 & echo $! >%s; wait", file)}, Starter: Children(), Log: quiet}).Dial(ctx, guest())
	if !errors.Is(err, why) {
		t.Errorf("Dial: %v, want the context's cause", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("Dial took %v from then on", d)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	for unix.Kill(pid, 0) == nil {
		if time.Since(start) > 10*time.Second {
			t.Fatal("the agent's child is left")
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := (&Command{Argv: self(t), Starter: Children(), Log: quiet}).Dial(ctx, guest()); !errors.Is(err, why) {
		t.Errorf("Dial after the context's end: %v", err)
	}
}

// ended reports whether a file ends in a line.
func ended(file string) bool {
	text, _ := os.ReadFile(file)
	return strings.HasSuffix(string(text), "\n")
}

// TestStubborn has an agent that does not end with its stdin.
func TestStubborn(t *testing.T) {
	argv := []string{"/bin/sh", "-c", strings.Join(self(t), " ") + "; sleep 60"}
	l, err := (&Command{Argv: argv, Starter: Children(), Log: quiet}).Dial(t.Context(), guest())
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	l.End()
	if d := time.Since(start); d < endWait || d > endWait+5*time.Second {
		t.Errorf("End took %v, want %v and a kill", d, endWait)
	}
	for unix.Kill(-l.PID, 0) == nil { // until whoever adopted it has waited for it
		if time.Since(start) > endWait+10*time.Second {
			t.Fatal("something of the agent's is left")
		}
		time.Sleep(time.Millisecond)
	}
}
