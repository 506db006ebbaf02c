package part

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// A Kept is a program that is started again whenever it ends.
type Kept struct {
	command func() *exec.Cmd
	line    func(string) // gets what it says
	sweep   func()       // ends what is left of it

	mu    sync.Mutex
	in    io.WriteCloser
	word  string // the last that was said to it; the next one hears it too
	ended bool   // it shall not be started again
	done  chan struct{}
}

// again is the pause before a program is started again.
const again = 50 * time.Millisecond

// Keep starts a program with the command that is made for each of its lives. Each
// line that it says goes to line, which may be called at any time until End. sweep is
// called after the end of each life, and ends what it has left, as a service manager
// does.
func Keep(line func(string), sweep func(), command func() *exec.Cmd) *Kept {
	k := &Kept{command: command, line: line, sweep: sweep, done: make(chan struct{})}
	go k.run()
	return k
}

func (k *Kept) run() {
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
		time.Sleep(again)
	}
}

// once is one life of the program.
func (k *Kept) once() error {
	cmd := k.command()
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	// Not StdoutPipe, which Wait would close before all is read.
	out, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	defer w.Close()
	cmd.Stdout = w
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
	_ = w.Close()
	read := make(chan struct{})
	go func() {
		defer close(read)
		for s := bufio.NewScanner(out); s.Scan(); {
			k.line(s.Text())
		}
	}()
	_ = cmd.Wait() // most are killed
	k.sweep()
	<-read
	return nil
}

// Say says a word to the program, and to those that take its place.
func (k *Kept) Say(word string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.word = word
	if k.in != nil {
		_, _ = io.WriteString(k.in, word+"\n") // it may just have ended
	}
}

// End ends the program by its stdin and tells if it did end in time.
func (k *Kept) End(limit time.Duration) bool {
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
