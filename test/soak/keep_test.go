//go:build linux

package soak

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"drvsock/test/rig"
)

// roleVar makes this test binary one of the programs.
const roleVar = "DRVSOCK_SOAK_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleVar) == "" || len(os.Args) < 2 {
		_ = flag.Set("test.parallel", "20") // most of them wait most of the time
		rig.Main(m)
		return
	}
	roles := map[string]func([]string) error{"serve": serve, "load": runLoad, "nurse": nurse, "link": linkProgram}
	role := roles[os.Args[1]]
	if role == nil {
		rig.Main(m) // the stand-in, which has a role of its own
		return
	}
	if err := role(os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, os.Args[1], err)
		os.Exit(1)
	}
	os.Exit(0)
}

// kept is a program that is started again whenever it ends.
type kept struct {
	command func() *exec.Cmd
	line    func(string) // gets what it says
	again   time.Duration

	mu    sync.Mutex
	in    io.WriteCloser
	word  string // the last that was said to it; the next one hears it too
	ended bool   // it shall not be started again
	done  chan struct{}
}

// keep starts a program.
func keep(line func(string), command func() *exec.Cmd) *kept {
	k := &kept{command: command, line: line, again: 50 * time.Millisecond, done: make(chan struct{})}
	go k.run()
	return k
}

func (k *kept) run() {
	defer close(k.done)
	for {
		if err := k.once(); err != nil {
			k.line(fmt.Sprintf("not started: %v", err))
		}
		k.mu.Lock()
		ended := k.ended
		k.mu.Unlock()
		if ended {
			return
		}
		time.Sleep(k.again)
	}
}

// once is one life of the program.
func (k *kept) once() error {
	cmd := k.command()
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	k.mu.Lock()
	if k.ended {
		k.mu.Unlock()
		return nil
	}
	if err = cmd.Start(); err == nil {
		k.in = in
		if k.word != "" {
			_, _ = io.WriteString(in, k.word+"\n")
		}
	}
	k.mu.Unlock()
	if err != nil {
		return err
	}
	for s := bufio.NewScanner(out); s.Scan(); {
		k.line(s.Text())
	}
	_ = cmd.Wait() // most are killed
	return nil
}

// say says a word to the program, and to those that take its place.
func (k *kept) say(word string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.word = word
	if k.in != nil {
		_, _ = io.WriteString(k.in, word+"\n") // it may just have ended
	}
}

// end ends the program by its stdin and tells if it did end in time.
func (k *kept) end(limit time.Duration) bool {
	k.mu.Lock()
	k.ended = true
	if k.in != nil {
		_ = k.in.Close()
	}
	k.mu.Unlock()
	select {
	case <-k.done:
		return true
	case <-time.After(limit):
		return false
	}
}

// nurse is a program of drvsock run that keeps others: its arguments are their
// command lines, parted by "--". What it is told it tells them.
func nurse(args []string) error {
	var list []*kept
	for _, argv := range strings.Split(strings.Join(args, "\x00"), "\x00--\x00") {
		list = append(list, keep(func(l string) { say("%s", l) }, func() *exec.Cmd {
			cmd := exec.Command("/proc/self/exe", strings.Split(argv, "\x00")...)
			cmd.Stderr = os.Stderr
			return cmd
		}))
	}
	for s := bufio.NewScanner(os.Stdin); s.Scan(); {
		for _, k := range list {
			k.say(s.Text())
		}
	}
	for _, k := range list {
		if !k.end(callBound) {
			return fmt.Errorf("a program does not end")
		}
	}
	return nil
}
