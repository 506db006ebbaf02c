package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// An order tells the client what to measure.
type order struct {
	Do      string // name of a measure
	Count   int    // connections or round trips
	Streams int
	Bytes   int64 // over all streams
}

// A result is the client's answer: one duration per connection or round trip
// in nanoseconds, or one for the whole.
type result struct {
	Nanos []int64
	Err   string
}

// client obeys the orders on stdin until it ends. Its services are in dir.
func client(dir string) error {
	c := &measurer{dir: dir}
	in := json.NewDecoder(bufio.NewReader(os.Stdin))
	out := json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := in.Decode(&o); err != nil {
			return nil // the end of stdin
		}
		ns, err := c.measure(o)
		r := result{Nanos: ns}
		if err != nil {
			r.Err = fmt.Sprintf("%s: %v", o.Do, err)
		}
		if err := out.Encode(r); err != nil {
			return err
		}
		runtime.GC() // between measurements, not in them
	}
}

type measurer struct {
	dir  string
	held []int
}

func (c *measurer) measure(o order) ([]int64, error) {
	switch o.Do {
	case "connect":
		return c.connects(o.Count)
	case "trip":
		return c.trips(o.Count)
	case "beside":
		return c.beside(o.Count)
	case "up":
		return c.bulk(o, c.up)
	case "down":
		return c.bulk(o, c.down)
	case "unread":
		return c.unread(o)
	case "hold":
		return nil, c.hold(o.Count)
	}
	return nil, fmt.Errorf("unknown order")
}

// own runs f on a thread of its own.
func own[T any](f func() (T, error)) (T, error) {
	var v T
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread ends with the goroutine
		v, err = f()
	}()
	<-done
	return v, err
}

func (c *measurer) connect(service string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	addr := &unix.SockaddrUnix{Name: filepath.Join(c.dir, service+".sock")}
	for {
		err := unix.Connect(fd, addr)
		if err == nil {
			return fd, nil
		}
		if err != unix.EINTR {
			_ = unix.Close(fd)
			return -1, fmt.Errorf("connect: %w", err)
		}
	}
}

// connects measures from before connect to the first byte.
func (c *measurer) connects(count int) ([]int64, error) {
	return own(func() ([]int64, error) {
		ns := make([]int64, count)
		var b [1]byte
		for i := range ns {
			start := time.Now()
			fd, err := c.connect("first")
			if err != nil {
				return nil, err
			}
			err = readFull(fd, b[:])
			ns[i] = int64(time.Since(start))
			_ = unix.Close(fd)
			if err != nil {
				return nil, err
			}
		}
		return ns, nil
	})
}

// trips measures one byte there and back, one after the other.
func (c *measurer) trips(count int) ([]int64, error) {
	return own(func() ([]int64, error) {
		fd, err := c.connect("echo")
		if err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		ns := make([]int64, count)
		b := []byte{1}
		for i := range ns {
			start := time.Now()
			if _, err := write(fd, b); err != nil {
				return nil, err
			}
			if err := readFull(fd, b); err != nil {
				return nil, err
			}
			ns[i] = int64(time.Since(start))
		}
		return ns, nil
	})
}

// beside is trips while another connection sends without a pause.
func (c *measurer) beside(count int) ([]int64, error) {
	var stop atomic.Bool
	moved := make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		fd, err := c.connect("sink")
		if err != nil {
			close(begun)
			moved <- err
			return
		}
		b := make([]byte, block)
		for i := 0; err == nil && !stop.Load(); i++ {
			if i == 64 {
				close(begun) // every buffer on the way is full
			}
			_, err = write(fd, b)
		}
		_ = unix.Close(fd)
		moved <- err
	}()
	<-begun
	ns, err := c.trips(count)
	stop.Store(true)
	if berr := <-moved; err == nil {
		err = berr
	}
	return ns, err
}

// bulk runs stream for each stream at once and measures until the last has
// ended.
func (c *measurer) bulk(o order, stream func(start <-chan struct{}, ready chan<- error, bytes int64) error) ([]int64, error) {
	start := make(chan struct{})
	ready, done := make(chan error), make(chan error)
	for range o.Streams {
		go func() {
			runtime.LockOSThread()
			done <- stream(start, ready, o.Bytes/int64(o.Streams))
		}()
	}
	var err error
	for range o.Streams {
		if e := <-ready; e != nil {
			err = e
		}
	}
	begin := time.Now()
	close(start)
	for range o.Streams {
		if e := <-done; e != nil {
			err = e
		}
	}
	return []int64{int64(time.Since(begin))}, err
}

// up sends, half-closes and waits for the far end's count.
func (c *measurer) up(start <-chan struct{}, ready chan<- error, bytes int64) error {
	fd, err := c.connect("sink")
	ready <- err
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	b := make([]byte, block)
	<-start
	for left := bytes; left > 0; left -= int64(len(b)) {
		if _, err := write(fd, b[:min(left, block)]); err != nil {
			return err
		}
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return err
	}
	if err := readFull(fd, b[:8]); err != nil {
		return err
	}
	if n := binary.BigEndian.Uint64(b); n != uint64(bytes) {
		return fmt.Errorf("%d of %d bytes came", n, bytes)
	}
	return nil
}

// unread measures bulk streams alone and beside a connection that is full since
// nobody reads it, in turns, and returns the two sums.
func (c *measurer) unread(o order) ([]int64, error) {
	ns := make([]int64, 2)
	for _, beside := range []int{0, 1, 1, 0} {
		full := -1
		if beside == 1 {
			var err error
			if full, err = c.fill(); err != nil {
				return nil, err
			}
		}
		took, err := c.bulk(o, c.up)
		if full >= 0 {
			_ = unix.Close(full)
		}
		if err != nil {
			return nil, err
		}
		ns[beside] += took[0]
	}
	return ns, nil
}

// fill sends to a server that doesn't read until there is no room for a while.
func (c *measurer) fill() (int, error) {
	fd, err := c.connect("hold")
	if err != nil {
		return -1, err
	}
	b := make([]byte, block)
	for full := 0; full < 5; {
		_, err := unix.SendmsgN(fd, b, nil, nil, unix.MSG_DONTWAIT)
		switch err {
		case nil:
			full = 0
		case unix.EAGAIN:
			full++
			time.Sleep(10 * time.Millisecond)
		case unix.EINTR:
		default:
			_ = unix.Close(fd)
			return -1, fmt.Errorf("fill: %w", err)
		}
	}
	return fd, nil
}

// down asks for bytes and reads them.
func (c *measurer) down(start <-chan struct{}, ready chan<- error, bytes int64) error {
	fd, err := c.connect("source")
	ready <- err
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	b := make([]byte, block)
	<-start
	if _, err := write(fd, binary.BigEndian.AppendUint64(nil, uint64(bytes))); err != nil {
		return err
	}
	for left := bytes; left > 0; {
		n, err := read(fd, b)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("end with %d bytes to come", left)
		}
		left -= int64(n)
	}
	return nil
}

// hold opens connections up to count in all and keeps them.
func (c *measurer) hold(count int) error {
	for len(c.held) < count {
		fd, err := c.connect("hold")
		if err != nil {
			return fmt.Errorf("connection %d: %w", len(c.held), err)
		}
		c.held = append(c.held, fd)
	}
	return nil
}
