package main

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"drvsock/internal/wire"
)

// linkProgram is a link that does what it is told: it starts the agent whose
// command line follows the path of a control socket, and passes bytes between
// its own stdin and stdout and the agent's. Each line that comes by the control
// socket is a fault; it is answered once it has begun. The line "begin" lets the
// first byte pass.
func linkProgram(args []string) error {
	control, err := net.Dial("unix", args[0])
	if err != nil {
		return err
	}
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	// Not StdoutPipe, which Wait would close.
	out, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		return err
	}
	_ = w.Close()
	up, down := newTap(os.Stdin, in), newTap(out, os.Stdout)
	begin := make(chan struct{})
	go func() {
		for s := bufio.NewScanner(control); s.Scan(); {
			if s.Text() == "begin" {
				close(begin)
			} else if err := fault(s.Text(), up, down); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			_, _ = io.WriteString(control, "ok\n")
		}
	}()
	<-begin
	go up.run()
	go down.run()
	<-down.done
	return cmd.Wait()
}

// fault carries out a line: a word, "up", "down" or "both", and an argument.
func fault(line string, up, down *tap) error {
	f := append(strings.Fields(line), "", "", "")
	var taps []*tap
	if f[1] != "down" {
		taps = append(taps, up)
	}
	if f[1] != "up" {
		taps = append(taps, down)
	}
	for _, t := range taps {
		t.mu.Lock()
		var err error
		switch f[0] {
		case "stall":
			t.stalled = f[2] != "off"
		case "vanish":
			t.vanish = true
		case "delay":
			t.delay, err = time.ParseDuration(f[2])
		case "rate":
			t.rate, err = strconv.Atoi(f[2])
		case "garbage":
			t.seed, err = strconv.ParseUint(f[2], 10, 64)
			t.garbage = true
		case "cut":
			t.cut = true
		default:
			err = fmt.Errorf("no fault: %q", line)
		}
		t.changed.Broadcast()
		t.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// A tap is one direction of the link.
type tap struct {
	r    io.Reader
	w    io.WriteCloser
	done chan struct{}

	mu      sync.Mutex
	changed *sync.Cond
	stalled bool          // nothing is read, nothing is written
	vanish  bool          // what is written goes nowhere
	delay   time.Duration // between reading and writing
	rate    int           // bytes a second, 0 for no bound
	garbage bool          // to come before the next frame
	seed    uint64        // of it
	cut     bool          // the link ends in the middle of the next frame with bytes

	// The writer's.
	hello int    // bytes of the hello that are known to come; -1 when it is over
	head  []byte // of the frame under way
	left  int    // of its payload
}

func newTap(r io.Reader, w io.WriteCloser) *tap {
	t := &tap{r: r, w: w, done: make(chan struct{})}
	t.changed = sync.NewCond(&t.mu)
	return t
}

// wait waits while the tap is stalled and returns what it is to do.
func (t *tap) wait() (delay time.Duration, rate int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.stalled {
		t.changed.Wait()
	}
	return t.delay, t.rate
}

type piece struct {
	b  []byte
	at time.Time // when it was read
}

// run passes bytes until their end.
func (t *tap) run() {
	defer close(t.done)
	queue := make(chan piece, 64)
	go func() {
		defer close(queue)
		for {
			t.wait()
			b := make([]byte, 32<<10)
			n, err := t.r.Read(b)
			if n > 0 {
				queue <- piece{b[:n], time.Now()}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range queue {
		delay, rate := t.wait()
		time.Sleep(time.Until(p.at.Add(delay)))
		if rate > 0 {
			time.Sleep(time.Second * time.Duration(len(p.b)) / time.Duration(rate))
		}
		for b := p.b; len(b) > 0; {
			n := t.part(b)
			if t.dropping() {
				// It was sent, as far as the sender can tell.
			} else if _, err := t.w.Write(b[:n]); err != nil {
				break
			}
			b = b[n:]
		}
	}
	_ = t.w.Close()
}

// part tells how many of the bytes belong together, up to the end of a header or
// of a payload, and does what is to be done there.
func (t *tap) part(b []byte) int {
	t.mu.Lock()
	garbage, seed, cut := t.garbage, t.seed, t.cut
	t.mu.Unlock()
	switch {
	case t.hello >= 0: // byte by byte, once per link
		t.head = append(t.head, b[0])
		if len(t.head) == wire.HelloSize {
			n, err := wire.HelloRest(t.head)
			if err != nil {
				os.Exit(1)
			}
			t.hello = wire.HelloSize + n
		}
		if len(t.head) == t.hello {
			t.hello, t.head = -1, nil
		}
		return 1
	case t.left == 0 && len(t.head) == 0 && garbage:
		g := make([]byte, 1000)
		fill(g, seed, 0)
		_, _ = t.w.Write(g)
		t.mu.Lock()
		t.garbage = false
		t.mu.Unlock()
	}
	if t.left > 0 {
		n := min(t.left, len(b))
		t.left -= n
		return n
	}
	n := min(wire.HeaderSize-len(t.head), len(b))
	t.head = append(t.head, b[:n]...)
	if len(t.head) < wire.HeaderSize {
		return n
	}
	h, err := wire.ParseHeader(t.head)
	if err != nil {
		os.Exit(1)
	}
	t.left, t.head = int(h.Length), nil
	if cut && h.Type == wire.TypeData && h.Length > 1 {
		_, _ = t.w.Write(b[:n])
		_, _ = t.w.Write(b[n : n+min(len(b)-n, rand.IntN(int(h.Length)))])
		os.Exit(0)
	}
	return n
}

func (t *tap) dropping() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.vanish
}
