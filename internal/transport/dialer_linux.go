package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"drvsock/internal/link"
)

// A Dialer makes links to one agent. Its methods may be called by several
// goroutines at once.
type Dialer interface {
	// Dial makes a link, within the bound that package link sets the hellos or
	// until ctx ends. After an error nothing is left of what it began. The error
	// may carry a hint.
	Dial(ctx context.Context, cfg link.Config) (*Link, error)
	// Kind is the way in a word, such as "command".
	Kind() string
	// String is what is dialled, for people.
	String() string
}

// A Link is a link and what it hangs on.
type Link struct {
	*link.Link
	PID int    // the process at the other end, 0 if it is none of this system
	Way string // Kind of its Dialer, or "hyperv" for a Hyper-V socket; "" for the Dialer's
	Why string // what there is to say of the Way, such as why it is no other one

	base *link.Link // that it ends with, nil if there is none
	once sync.Once
	end  func()
}

// Err says why the link ended, as that of package link does.
func (l *Link) Err() error {
	err := l.Link.Err()
	if l.base != nil && errors.Is(err, net.ErrClosed) {
		if reason := l.base.Err(); reason != nil {
			return reason
		}
	}
	return err
}

// NewLink makes a Link of what a Dialer made. end is called once, after the link
// was closed, and returns when what it hangs on has ended.
func NewLink(l *link.Link, pid int, end func()) *Link { return &Link{Link: l, PID: pid, end: end} }

// End closes the link and returns when what it hangs on has ended. A command
// that doesn't end by itself in two seconds is killed.
func (l *Link) End() {
	l.once.Do(func() {
		_ = l.Close()
		l.end()
	})
}

// endWait bounds what the other end of a link takes to end by itself.
const endWait = 2 * time.Second

// lossWait bounds what the loss of a link may be behind that of the link that it
// was moved to, where an agent's death ends both.
const lossWait = 300 * time.Millisecond

// over makes a link of its two files, which it takes over, until ctx ends.
func over(ctx context.Context, r, w *os.File, cfg link.Config) (*link.Link, error) {
	rw, err := link.Files(r, w)
	if err != nil {
		return nil, err
	}
	// Closing ends the hellos, which know no context.
	stop := context.AfterFunc(ctx, func() { _ = rw.Close() })
	l, err := link.New(rw, cfg)
	if stop() {
		return l, err
	}
	if err == nil {
		_ = l.Close()
	}
	return nil, fmt.Errorf("given up: %w", context.Cause(ctx))
}

// waitFor tells whether c was closed within d.
func waitFor(c <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c:
		return true
	case <-t.C:
		return false
	}
}
