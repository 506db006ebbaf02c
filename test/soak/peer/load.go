package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"drvsock/test/soak/part"
)

// Lanes of each route: how many connections of each kind are open at a time.
var lanes = map[string]map[byte]int{
	"full":  {part.Talk: 4, part.Stream: 2, part.Idle: 6},
	"light": {part.Talk: 1, part.Stream: 1, part.Idle: 2},
	"quiet": {part.Talk: 1, part.Idle: 1},
}

// A load is a program that uses routes until its stdin says stop.
type load struct {
	w     *watch
	light bool          // leaves pauses
	stop  chan struct{} // closed to end the lanes
	lanes sync.WaitGroup
}

// A route leads from a client to a server, by name.
type route struct {
	name, addr string
	lanes      string
	mu         sync.Mutex
	told       time.Time // of the last report of success
	conns      int       // since then
	bytes      atomic.Int64
	failed     bool // since then
}

// runLoad is the program: its arguments are its name, how much it shall do, and
// ROUTE=ADDRESS for each route, or ROUTE:LANES=ADDRESS for one with lanes of its
// own. At the line "go" on its stdin it begins, at "stop" it ends what it does and
// says so.
func runLoad(args []string) error {
	w := newWatch()
	var rs []*route
	for _, a := range args[2:] {
		name, addr, ok := strings.Cut(a, "=")
		if !ok {
			return fmt.Errorf("argument %q", a)
		}
		name, own, ok := strings.Cut(name, ":")
		if !ok {
			own = args[1]
		}
		rs = append(rs, &route{name: name, addr: addr, lanes: own})
	}
	say("ready")
	var l *load
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch {
		case in.Text() == "go" && l == nil:
			l = &load{w: w, light: args[1] == "light", stop: make(chan struct{})}
			for _, r := range rs {
				for kind, n := range lanes[r.lanes] {
					for range n {
						l.lanes.Go(func() { l.lane(r, kind) })
					}
				}
			}
		case in.Text() == "stop":
			if l != nil {
				close(l.stop)
				l.lanes.Wait()
			}
			l = nil
			say("stopped")
		}
	}
	return nil
}

// lane uses a route in one way until the load stops.
func (l *load) lane(r *route, kind byte) {
	for {
		select {
		case <-l.stop:
			return
		default:
		}
		start := time.Now()
		n, half, err := l.once(r, l.plan(kind))
		switch {
		case err == nil || errors.Is(err, errStopped):
			r.well(start, n)
			if kind == part.Talk && (l.light || rand.IntN(8) == 0) {
				l.sleep(rand.N(20 * time.Millisecond))
			}
		default:
			r.bytes.Add(n)
			r.mu.Lock()
			r.failed = true
			r.mu.Unlock()
			tell(part.Report{Route: r.name, Kind: kind, Half: half, Start: start, End: time.Now()}, err)
			// Who has nothing to talk to tries again soon, but does nothing else.
			l.sleep(20*time.Millisecond + rand.N(30*time.Millisecond))
		}
	}
}

// well counts a connection that came out well, and reports the first one after
// a failure and one in some time.
func (r *route) well(start time.Time, n int64) {
	r.bytes.Add(n)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns++
	if !r.failed && time.Since(r.told) < 20*time.Millisecond {
		return
	}
	write(part.Report{Route: r.name, Start: start, End: time.Now(), What: "ok", Conns: r.conns, Bytes: r.bytes.Swap(0)})
	r.told, r.conns, r.failed = time.Now(), 0, false
}

func (l *load) sleep(d time.Duration) {
	select {
	case <-l.stop:
	case <-time.After(d):
	}
}

// plan is one of a kind.
func (l *load) plan(kind byte) plan {
	size := func(bits int) int64 { return rand.Int64N(1 << uint(rand.IntN(bits+1))) }
	p := plan{kind: kind, seed: rand.Uint64(), half: rand.IntN(2) == 0}
	switch kind {
	case part.Talk:
		p.up, p.down = size(18), size(18)
	case part.Stream:
		p.up, p.down = size(22), size(22)
		if l.light { // so that one is always open
			p.up, p.down = 4<<20, 4<<20
		}
	case part.Idle:
		p.up = 1 + rand.Int64N(30)
	}
	return p
}

// errStopped ends a connection in the middle because the load stops.
var errStopped = errors.New("stopped")

// once makes a connection and uses it as planned. It returns how many bytes came
// over it, both ways, as far as is known, and if it had ended its direction.
func (l *load) once(r *route, p plan) (n int64, half bool, err error) {
	done := l.w.begin("connect " + r.addr)
	raw, err := net.Dial("unix", r.addr)
	done()
	if err != nil {
		return 0, false, err
	}
	c := l.w.conn(raw)
	defer c.Close()
	if _, err = c.Write(p.bytes()); err == nil {
		n, err = l.use(c, p)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, c.half.Load(), err
}

func (l *load) use(c halfCloser, p plan) (n int64, err error) {
	switch p.kind {
	case part.Talk:
		if err := send(c, p.seed, p.up, full); err != nil {
			return 0, err
		}
		if p.half {
			if err := c.CloseWrite(); err != nil {
				return 0, err
			}
		}
		if n, err = receive(c, ^p.seed, p.down); err == nil {
			n, err = n+p.up, ended(c)
		}
	case part.Stream:
		if n, err = both(c, ^p.seed, p.down, p.seed, p.up); err == nil {
			n += p.up
		}
	case part.Idle:
		for i := range p.up {
			if err = sendAt(c, p.seed, i); err == nil {
				_, err = receiveAt(c, ^p.seed, i)
			}
			if err != nil {
				return n, err
			}
			n += 2
			l.sleep(rand.N(2 * time.Second))
			select {
			case <-l.stop:
				return n, errStopped
			default:
			}
		}
		if err = c.CloseWrite(); err == nil {
			err = ended(c)
		}
	}
	return n, err
}
