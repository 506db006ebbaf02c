package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"drvsock/test/soak/part"
)

var tellLock sync.Mutex

// tell says how a connection came out that err ended.
func tell(r part.Report, err error) {
	r.What = outcome(err)
	if r.What == "wrong" {
		r.Text = err.Error()
	}
	write(r)
}

func write(r part.Report) {
	b, _ := json.Marshal(r)
	say("%s", b)
}

// say writes a line. A pipe keeps those of several processes apart if they are
// shorter than 4 KiB.
func say(format string, args ...any) {
	tellLock.Lock()
	defer tellLock.Unlock()
	fmt.Printf(format+"\n", args...)
}

// outcome is err in a word.
func outcome(err error) string {
	var bad wrong
	var no syscall.Errno
	switch {
	case errors.As(err, &bad):
		return "wrong"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "short"
	case errors.Is(err, net.ErrClosed):
		return "closed"
	case errors.As(err, &no):
		return no.Error()
	}
	return err.Error()
}

// A watch notices calls that take too long.
type watch struct {
	mu    sync.Mutex
	calls map[*call]struct{}
}

type call struct {
	what  string
	since time.Time
	told  bool
}

// newWatch begins to watch.
func newWatch() *watch {
	w := &watch{calls: map[*call]struct{}{}}
	go func() {
		for range time.Tick(time.Second) {
			w.look()
		}
	}()
	return w
}

func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.calls {
		if d := time.Since(c.since); d > part.CallBound && !c.told {
			c.told = true
			b := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "%s takes %v already\n%s\n", c.what, d, b[:runtime.Stack(b, true)])
			write(part.Report{Route: c.what, Start: c.since, End: time.Now(), What: "stuck"})
		}
	}
}

// begin is called when a call begins, and what it returns at its end.
func (w *watch) begin(what string) func() {
	c := &call{what: what, since: time.Now()}
	w.mu.Lock()
	w.calls[c] = struct{}{}
	w.mu.Unlock()
	return func() {
		w.mu.Lock()
		delete(w.calls, c)
		w.mu.Unlock()
	}
}

// conn has the calls of a connection watched.
func (w *watch) conn(c net.Conn) *watched { return &watched{halfCloser: c.(halfCloser), w: w} }

type watched struct {
	halfCloser
	w    *watch
	half atomic.Bool // CloseWrite was called
}

func (c *watched) Read(b []byte) (int, error) {
	defer c.w.begin("read " + c.LocalAddr().String())()
	return c.halfCloser.Read(b)
}

func (c *watched) Write(b []byte) (int, error) {
	defer c.w.begin("write " + c.LocalAddr().String())()
	return c.halfCloser.Write(b)
}

func (c *watched) CloseWrite() error {
	c.half.Store(true)
	return c.halfCloser.CloseWrite()
}
