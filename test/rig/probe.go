//go:build linux

package rig

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"
)

// replyWithin bounds every call of a Probe: nothing may hang.
const replyWithin = 10 * time.Second

// A Probe is a running testdata/probe.c, which makes the socket calls it is
// told to make and says what came of each.
type Probe struct {
	PID   int // of the process that was started, which may be drvsock's front
	cmd   *exec.Cmd
	tb    testing.TB
	in    io.WriteCloser
	lines chan string
	asked []string
}

// ProbeProgram is the probe as flags compile it ("-static", "-m32").
func ProbeProgram(tb testing.TB, flags ...string) string {
	tb.Helper()
	return Compile(tb, "probe.c", flags...)
}

// StartProbe starts cmd, which leads to a probe. Its end is the test's.
func StartProbe(tb testing.TB, cmd *exec.Cmd) *Probe {
	tb.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, w, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	cmd.Stdout = w
	err = cmd.Start()
	w.Close()
	if err != nil {
		out.Close()
		tb.Fatal(err)
	}
	p := &Probe{PID: cmd.Process.Pid, cmd: cmd, tb: tb, in: in, lines: make(chan string, 64)}
	go func() {
		defer close(p.lines)
		defer out.Close()
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	tb.Cleanup(func() { p.End() })
	return p
}

// In is the same probe with what it has to complain about going to another
// test, such as a subtest.
func (p *Probe) In(tb testing.TB) *Probe {
	q := *p
	q.tb = tb
	return &q
}

// Ask sends a call without waiting for what becomes of it.
func (p *Probe) Ask(format string, args ...any) {
	p.tb.Helper()
	line := fmt.Sprintf(format, args...)
	p.asked = append(p.asked, line)
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		p.tb.Errorf("%s: %v", line, err)
	}
}

// Answer waits for the answer to the first call still unanswered.
func (p *Probe) Answer() string {
	p.tb.Helper()
	return p.AnswerWithin(replyWithin)
}

// AnswerWithin is Answer with a bound of its own; the test fails past it.
func (p *Probe) AnswerWithin(limit time.Duration) string {
	p.tb.Helper()
	line := p.asked[0]
	p.asked = p.asked[1:]
	select {
	case s, ok := <-p.lines:
		if !ok {
			return "the program ended"
		}
		return s
	case <-time.After(limit):
		p.tb.Fatalf("%s: no answer in %v", line, limit)
		return ""
	}
}

// Quiet tells if the first call still unanswered stays so for d.
func (p *Probe) Quiet(d time.Duration) bool {
	select {
	case s, ok := <-p.lines:
		if !ok {
			s = "the program ended"
		}
		p.tb.Logf("%s: %s", p.asked[0], s)
		return false
	case <-time.After(d):
		return true
	}
}

// Do makes a call and returns what came of it.
func (p *Probe) Do(format string, args ...any) string {
	p.tb.Helper()
	p.Ask(format, args...)
	return p.Answer()
}

// Want makes a call that must come out as want.
func (p *Probe) Want(want, format string, args ...any) {
	p.tb.Helper()
	if got := p.Do(format, args...); got != want {
		p.tb.Errorf("%s: got %q, want %q", fmt.Sprintf(format, args...), got, want)
	}
}

// End closes the program's stdin and waits for its end; it is killed if that
// does not come. It returns the exit code. Later calls return the same.
func (p *Probe) End() int {
	p.tb.Helper()
	if p.cmd.ProcessState == nil {
		p.in.Close()
		if p.tb.Failed() { // it may stand in a call for ever
			_ = p.cmd.Cancel()
		}
		late := time.AfterFunc(replyWithin, func() {
			p.tb.Errorf("%q did not end", p.cmd.Args)
			_ = p.cmd.Cancel()
		})
		_ = p.cmd.Wait() // the code says it
		late.Stop()
	}
	return p.cmd.ProcessState.ExitCode()
}

// Kill kills the process that was started.
func (p *Probe) Kill() { _ = p.cmd.Process.Kill() }
