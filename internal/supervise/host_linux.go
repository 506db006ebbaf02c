package supervise

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"drvsock/internal/build"
	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/transport"
	"drvsock/internal/wire"
)

// redialAfter is the least time between two tries to have a link, so that an
// agent that can't live costs its callers an error each, not a process each.
// The daemon sees to that itself, and costs no process.
const (
	redialAfter = time.Second
	reaskAfter  = 20 * time.Millisecond
)

// host holds the one link, and brings a new one about when a call needs it after
// it was lost.
type host struct {
	dialer   transport.Dialer
	pause    time.Duration // between two tries
	patience time.Duration // between two tries to bring sockets back, at most
	log      *slog.Logger
	accepted func(*link.Incoming)
	lost     func() // called in its own goroutine after a link was lost and its agent ended, not after close

	linked chan struct{} // gets a word when a link was made

	// ctx ends with close, for links that are just being made.
	ctx    context.Context
	cancel context.CancelFunc

	mu     sync.Mutex
	cur    *transport.Link // the last one, live or not
	since  time.Time       // when it was made
	buried bool            // its end was counted
	early  int             // links in a row that did not hold for a pause
	trying *dialing        // nil if no link is being made
	tried  time.Time
	last   error
	closed bool
}

// dialing is the making of one link, for which any number of calls may wait.
type dialing struct {
	done chan struct{}
	link *link.Link
	err  error
}

var errClosedHost = errno.Errorf(errno.ENETDOWN, errno.LayerLink, "closed")

func newHost(d transport.Dialer, log *slog.Logger, accepted func(*link.Incoming), lost func()) *host {
	h := &host{dialer: d, log: log, accepted: accepted, lost: lost, pause: redialAfter, patience: lastPause, linked: make(chan struct{}, 1)}
	if _, ok := d.(*transport.Session); ok {
		h.pause, h.patience = reaskAfter, lastAsk
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

// link gives the live link, making one if there is none. That may take as long
// as the hello of package link has; the caller waits no longer than ctx.
func (h *host) link(ctx context.Context) (*link.Link, error) {
	l, d, err := h.current()
	if d == nil {
		return l, err
	}
	select {
	case <-d.done:
		return d.link, d.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// current gives the live link, or the making of one.
func (h *host) current() (*link.Link, *dialing, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, nil, errClosedHost
	}
	if h.cur != nil {
		select {
		case <-h.cur.Done():
			h.bury()
		default:
			return h.cur.Link, nil, nil
		}
	}
	if h.trying != nil {
		return nil, h.trying, nil
	}
	if since := time.Since(h.tried); since < h.pause && h.last != nil {
		return nil, nil, h.last
	}
	h.tried = time.Now()
	h.trying = &dialing{done: make(chan struct{})}
	go h.try(h.trying)
	return nil, h.trying, nil
}

// bury counts the end of a link: an agent that answers and then dies, one after the
// other, can't live either. Called with mu.
func (h *host) bury() {
	if h.buried {
		return
	}
	h.buried = true
	if time.Since(h.since) >= h.pause {
		h.early = 0
	} else if h.early++; h.early > 1 {
		h.tried, h.last = time.Now(), h.cur.Err()
	}
}

// try dials and says what came of it.
func (h *host) try(d *dialing) {
	defer close(d.done)
	l, err := h.dialer.Dial(h.ctx, link.Config{Role: wire.RoleGuest, Build: build.Version(), Handler: h.accepted, Log: h.log})
	h.mu.Lock()
	closed := h.closed
	switch {
	case closed:
		d.err = errClosedHost
	case err != nil:
		d.err = err
	default:
		h.cur, d.link = l, l.Link
		h.since, h.buried = time.Now(), false
		select {
		case h.linked <- struct{}{}:
		default:
		}
	}
	h.trying, h.last = nil, d.err
	h.mu.Unlock()
	switch {
	case err != nil:
	case closed:
		l.End()
	default:
		peer := l.Peer()
		h.log.Info("link up", "agent", peer.Build, "os", peer.OS, "pid", l.PID)
		go h.mourn(l)
	}
}

// mourn waits for the end of a link and of its agent.
func (h *host) mourn(l *transport.Link) {
	<-l.Done()
	h.mu.Lock()
	closed := h.closed
	h.mu.Unlock()
	if closed {
		return // close waits for the agent
	}
	h.log.Warn("link lost", "err", l.Err())
	// First the agent: one that only stands still holds its sockets, and no other
	// could make them anew.
	l.End()
	h.lost()
}

// open asks the agent for a stream, on a new link if the last was lost.
func (h *host) open(ctx context.Context, req wire.Request) (*link.Stream, error) {
	l, err := h.link(ctx)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		var e *errno.Error
		if !errors.As(err, &e) {
			err = errno.Errorf(errno.ENETDOWN, errno.LayerLink, "%v", err)
		}
		return nil, err
	}
	s, _, err := l.Open(ctx, req)
	return s, err
}

func (h *host) close() {
	h.mu.Lock()
	l, d := h.cur, h.trying
	h.closed = true
	h.mu.Unlock()
	h.cancel() // nobody waits for what is being made
	if d != nil {
		<-d.done
	}
	if l != nil {
		l.End()
	}
}

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
