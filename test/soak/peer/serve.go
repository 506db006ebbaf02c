package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"drvsock/test/soak/part"
)

// serve is a program that serves what clients plan at the socket name, until its
// stdin ends.
func serve(args []string) error {
	name := args[1]
	// Left by one that was killed; nobody else has this name.
	_ = os.Remove(name)
	l, err := net.Listen("unix", name)
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = l.Close() // which removes the file
		os.Exit(0)
	}()
	say("listening")
	w := newWatch()
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			began := time.Now()
			wc := w.conn(c)
			p, err := serveOne(wc)
			if err != nil {
				tell(part.Report{Route: args[0], Kind: p.kind, Half: wc.half.Load(), Start: began, End: time.Now()}, err)
			}
		}()
	}
}

func serveOne(c halfCloser) (plan, error) {
	p, err := readPlan(c)
	if err != nil {
		return p, err
	}
	switch p.kind {
	case part.Talk:
		if _, err := receive(c, p.seed, p.up); err != nil {
			return p, err
		}
		if p.half {
			if err := ended(c); err != nil {
				return p, err
			}
		}
		return p, send(c, ^p.seed, p.down, full)
	case part.Stream:
		_, err := both(c, p.seed, p.up, ^p.seed, p.down)
		return p, err
	case part.Idle:
		for i := range p.up {
			if _, err := receiveAt(c, p.seed, i); err != nil {
				return p, err
			}
			if err := sendAt(c, ^p.seed, i); err != nil {
				return p, err
			}
		}
		return p, ended(c)
	}
	return p, wrong{fmt.Sprintf("kind %d", p.kind)}
}

// both receives one pattern and sends another at the same time, and wants the
// end of the other direction after its last byte. It returns how many came.
func both(c halfCloser, in uint64, n int64, out uint64, m int64) (int64, error) {
	sent := make(chan error, 1)
	go func() {
		err := send(c, out, m, paced())
		if err == nil {
			err = c.CloseWrite()
		}
		sent <- err
	}()
	got, err := receive(c, in, n)
	if err == nil {
		err = ended(c)
	}
	if err != nil {
		_ = c.Close() // ends the sending too
	}
	if serr := <-sent; err == nil {
		err = serr
	}
	return got, err
}

// paced is a step of send for pieces of all sizes with pauses between, so that
// several streams leave the machine something.
func paced() func() int {
	return func() int {
		if rand.IntN(4) == 0 {
			time.Sleep(rand.N(20 * time.Millisecond))
		}
		return 1 + rand.IntN(1<<uint(rand.IntN(17)))
	}
}

// full is a step of send that never waits.
func full() int { return 1 << 30 }

// sendAt and receiveAt are for a single byte of a pattern.
func sendAt(c net.Conn, seed uint64, off int64) error {
	b := make([]byte, 1)
	fill(b, seed, off)
	_, err := c.Write(b)
	return err
}

func receiveAt(c net.Conn, seed uint64, off int64) (int, error) {
	var b, scratch [1]byte
	n, err := c.Read(b[:])
	if n == 1 {
		return n, check(b[:], scratch[:], seed, off)
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
