//go:build linux

package wine

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// A talker is a program that runs beside the test and says lines.
type talker struct {
	s     *stage
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
}

// start starts cmd. Its stdin is open until end.
func (s *stage) start(cmd *exec.Cmd) *talker {
	s.t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Stdout = w
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		s.t.Fatal(err)
	}
	p := &talker{s: s, cmd: cmd, in: in, lines: make(chan string, 256)}
	go pass(r, p.lines)
	s.t.Cleanup(func() { p.end() })
	return p
}

func pass(r io.ReadCloser, lines chan<- string) {
	defer close(lines)
	defer r.Close()
	for sc := bufio.NewScanner(r); sc.Scan(); {
		lines <- strings.TrimSuffix(sc.Text(), "\r")
	}
}

// line is the next line, "" if the program ends without one.
func (p *talker) line(within time.Duration) string {
	p.s.t.Helper()
	select {
	case l := <-p.lines:
		return l
	case <-time.After(within):
		p.s.t.Fatalf("%q: no line in %v", p.cmd.Args, within)
		return ""
	}
}

// ask gives the program a line on its stdin.
func (p *talker) ask(format string, args ...any) {
	p.s.t.Helper()
	if _, err := fmt.Fprintf(p.in, format+"\n", args...); err != nil {
		p.s.t.Fatalf("%q: %v", p.cmd.Args, err)
	}
}

// do asks and gives the answer.
func (p *talker) do(format string, args ...any) string {
	p.s.t.Helper()
	p.ask(format, args...)
	return p.line(limit)
}

// wants asks for what must come out as want.
func (p *talker) wants(want, format string, args ...any) {
	p.s.t.Helper()
	p.s.want(fmt.Sprintf(format, args...), p.do(format, args...), want)
}

// quiet tells if the program neither says anything nor ends for d.
func (p *talker) quiet(d time.Duration) bool {
	select {
	case l := <-p.lines:
		p.s.t.Logf("%q: %s", p.cmd.Args[1:], l)
		return false
	case <-time.After(d):
		return true
	}
}

// says fails the test unless the next line is want.
func (p *talker) says(want string) *talker {
	p.s.t.Helper()
	p.s.want(strings.Join(p.cmd.Args, " "), p.line(limit), want)
	return p
}

// end closes the program's stdin, waits for it and gives the lines left and its
// exit code.
func (p *talker) end() (left []string, code int) {
	p.s.t.Helper()
	if p.cmd.ProcessState == nil {
		p.in.Close()
		late := time.AfterFunc(limit, func() {
			p.s.t.Errorf("%q did not end", p.cmd.Args)
			_ = p.cmd.Cancel()
		})
		_ = p.cmd.Wait() // the code says it
		late.Stop()
	}
	for l := range p.lines {
		left = append(left, l)
	}
	return left, p.cmd.ProcessState.ExitCode()
}

// wait is end for a program that ends by itself.
func (p *talker) wait() (left []string, code int) {
	p.s.t.Helper()
	for {
		l := p.line(limit)
		if l == "" {
			break
		}
		left = append(left, l)
	}
	_, code = p.end()
	return left, code
}

// abandon kills the program, after a moment in which it may say something.
func (p *talker) abandon() {
	p.quiet(500 * time.Millisecond)
	_ = p.cmd.Cancel()
}
