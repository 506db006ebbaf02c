package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds on one command of the demo. Wine needs most of them.
const (
	startWithin = 15 * time.Second // for a server to say that it listens
	endWithin   = 25 * time.Second // for a command that should end by itself
	killAfter   = 3 * time.Second  // from being asked to end
)

// A player runs the commands of a story and notes what they do.
type player struct {
	ctx    context.Context
	stage  *stage
	out    io.Writer
	report *Report
	step   *Step
}

func (p *player) say(format string, args ...any) { fmt.Fprintf(p.out, format+"\n", args...) }

// act plays one step, unless the demo was interrupted.
func (p *player) act(name string, play func()) {
	if p.ctx.Err() != nil {
		return
	}
	p.say("\n%d. %s", len(p.report.Steps)+1, name)
	p.step = &Step{Name: name, OK: true}
	play()
	for _, c := range p.step.Commands {
		p.step.OK = p.step.OK && c.OK
	}
	if p.ctx.Err() == nil {
		p.report.Steps = append(p.report.Steps, *p.step)
	}
}

// expect is what a command has to do.
type expect struct {
	exit  int
	lines []string // of its output, where * stands for anything; nil lets it say what it likes
}

// of tells how a command differs from it, "" if it doesn't.
func (e expect) of(c *Command) string {
	var differs []string
	if c.Exit != e.exit {
		differs = append(differs, fmt.Sprintf("exit code %d and not %d", e.exit, c.Exit))
	}
	if e.lines != nil {
		var want string
		for _, l := range e.lines {
			want += regexp.QuoteMeta(l + "\n")
		}
		if !regexp.MustCompile(`^` + strings.ReplaceAll(want, `\*`, `.*`) + `$`).MatchString(c.Output) {
			differs = append(differs, fmt.Sprintf("the output %q", strings.Join(e.lines, "\n")))
		}
	}
	return strings.Join(differs, ", ")
}

// A process is a command under way.
type process struct {
	p       *player
	at      int // of its note in the step
	cmd     *exec.Cmd
	cancel  context.CancelFunc
	output  *output
	printed int
	ended   chan error
}

// start starts a command in a folder of its side's drive.
func (p *player) start(side, dir, line, suffix string) *process {
	p.say("%s:%s$ %s%s", side, dir, line, suffix)
	c := &process{p: p, at: len(p.step.Commands), output: newOutput(), ended: make(chan error, 1)}
	p.step.Commands = append(p.step.Commands, Command{Side: side, Dir: dir, Command: line})
	var ctx context.Context
	ctx, c.cancel = context.WithTimeout(p.ctx, endWithin)
	c.cmd = exec.CommandContext(ctx, "/bin/sh", "-c", "exec "+line)
	c.cmd.Dir = filepath.Join(p.stage.host, dir)
	if side == guest {
		c.cmd.Dir = filepath.Join(p.stage.view, dir)
	}
	c.cmd.Env = p.stage.env
	c.cmd.Stdout, c.cmd.Stderr = c.output, c.output
	// The terminal's ^C is for the demo, which then ends its commands itself.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.cmd.Cancel = func() error { return unix.Kill(-c.cmd.Process.Pid, unix.SIGTERM) }
	c.cmd.WaitDelay = killAfter
	go func() { c.ended <- c.cmd.Run() }()
	return c
}

// ready waits until the command has said a line.
func (c *process) ready() {
	select {
	case <-c.output.line:
	case err := <-c.ended:
		c.ended <- err
	case <-c.p.ctx.Done():
	case <-time.After(startWithin):
	}
	c.print()
}

// finish waits for the command's end, checks it and tells if it was as expected.
func (c *process) finish(want expect) bool {
	err := <-c.ended
	c.cancel()
	c.print()
	note := &c.p.step.Commands[c.at]
	note.Output = c.output.string()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		note.Exit = exit.ExitCode()
	default:
		// Not started, or a process of its tree keeps its output open.
		note.Exit = -1
	}
	differs := want.of(note)
	if note.Exit < 0 && differs == "" {
		differs = "an end of its own"
	}
	if differs == "" {
		note.OK = true
	} else {
		if note.Exit < 0 {
			differs += fmt.Sprintf(" (%v)", err)
		}
		c.p.differs(note, differs)
	}
	return note.OK
}

func (p *player) differs(note *Command, expected string) {
	note.OK, note.Differs = false, expected
	if p.ctx.Err() == nil {
		p.say("demo: %s: that differs: expected %s", note.Command, expected)
	}
}

// run runs a command to its end.
func (p *player) run(side, dir, line string, want expect) bool {
	return p.start(side, dir, line, "").finish(want)
}

// pair runs a server in the background and then a client.
func (p *player) pair(server, client Command, fromServer, fromClient expect) {
	s := p.start(server.Side, server.Dir, server.Command, " &")
	s.ready()
	if !p.run(client.Side, client.Dir, client.Command, fromClient) {
		s.cancel() // it would wait for a client that doesn't come
	}
	s.finish(fromServer)
	p.tidy(server.Dir)
}

// tidy makes it a fault if a socket file is left.
func (p *player) tidy(dir string) {
	if left := p.stage.sockets(dir); len(left) > 0 && p.ctx.Err() == nil {
		p.differs(&p.step.Commands[0], fmt.Sprintf("no socket file left behind, there is %v", left))
	}
}

// print passes on what the command has said since the last time.
func (c *process) print() {
	s := c.output.string()
	fmt.Fprint(c.p.out, s[c.printed:])
	c.printed = len(s)
}

// output collects what a command says. Winsock programs end lines with CR LF.
type output struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	line chan struct{} // closed with the first line
	said sync.Once
}

// maxOutput bounds what is kept of a command that goes wild.
const maxOutput = 64 << 10

func newOutput() *output { return &output{line: make(chan struct{})} }

// Write never fails: a command shall not notice who reads it.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf.Len() < maxOutput {
		o.buf.Write(bytes.ReplaceAll(b, []byte{'\r'}, nil))
	}
	if bytes.IndexByte(b, '\n') >= 0 {
		o.said.Do(func() { close(o.line) })
	}
	return len(b), nil
}

func (o *output) string() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
