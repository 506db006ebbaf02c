package view

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

// Pauses between two tries to have a link again. To ask the daemon costs no
// process, and it has pauses of its own.
const (
	firstRedial = 100 * time.Millisecond
	lastRedial  = 10 * time.Second
	lastReask   = 500 * time.Millisecond
)

// A Link keeps the link of a view: it dials anew whenever the last one was lost.
// It is the view's mount.Host.
type Link struct {
	dialer  transport.Dialer
	longest time.Duration // pause
	log     *slog.Logger
	ctx     context.Context
	cancel  context.CancelFunc
	ended   sync.WaitGroup

	mu     sync.Mutex
	cur    *transport.Link
	routes map[uint32]func(*link.Incoming) // by handle, on cur
	up     chan struct{}                   // closed when there is a link, or no more
	last   error
	told   func() // of each later link
}

// NewLink returns a Link by d. The caller closes it.
func NewLink(d transport.Dialer, log *slog.Logger) *Link {
	k := &Link{dialer: d, longest: lastRedial, log: log, up: make(chan struct{})}
	if _, ok := d.(*transport.Session); ok {
		k.longest = lastReask
	}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	return k
}

// First makes the first link, and keeps it from then on. Its failure is the
// caller's.
func (k *Link) First(ctx context.Context) error {
	l, err := k.dial(ctx)
	if err != nil {
		return err
	}
	k.ended.Add(1)
	go k.keep(l)
	return nil
}

// Begin begins to make links, however long the first one takes.
func (k *Link) Begin() {
	k.ended.Add(1)
	go k.keep(nil)
}

// dial makes a link the one in use.
func (k *Link) dial(ctx context.Context) (*transport.Link, error) {
	routes := map[uint32]func(*link.Incoming){}
	l, err := k.dialer.Dial(ctx, link.Config{Role: wire.RoleGuest, Build: build.Version(), Log: k.log, Handler: func(in *link.Incoming) {
		k.mu.Lock()
		accepted := routes[in.Request.From]
		k.mu.Unlock()
		switch {
		case in.Request.Kind != wire.KindAccepted:
			in.Refuse(errno.Errorf(errno.EOPNOTSUPP, errno.LayerGuest, "request %d is not for a guest", in.Request.Kind))
		case accepted == nil:
			in.Refuse(errno.Errorf(errno.ECONNREFUSED, errno.LayerGuest, "no such socket"))
		default:
			accepted(in)
		}
	}})
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last = err
	if err != nil {
		return nil, err
	}
	k.cur, k.routes = l, routes
	close(k.up)
	return l, nil
}

// keep dials anew after each loss.
func (k *Link) keep(l *transport.Link) {
	defer k.ended.Done()
	for {
		if l != nil && !k.outlive(l) {
			return
		}
		var err error
		for pause := firstRedial; ; pause = min(2*pause, k.longest) {
			if l, err = k.dial(k.ctx); err == nil {
				break
			}
			if pause == firstRedial { // the others will be alike
				k.log.Warn("no link", "err", err)
			}
			select {
			case <-k.ctx.Done():
				return
			case <-time.After(pause):
			}
		}
		k.log.Info("link up", "agent", l.Peer().Build)
		k.mu.Lock()
		told := k.told
		k.mu.Unlock()
		if told != nil {
			told()
		}
	}
}

// outlive waits for the end of l, and tells if there is to be another.
func (k *Link) outlive(l *transport.Link) bool {
	select {
	case <-l.Done():
	case <-k.ctx.Done():
		l.End()
		return false
	}
	k.mu.Lock()
	k.cur, k.up = nil, make(chan struct{})
	k.mu.Unlock()
	k.log.Warn("link lost", "err", l.Err())
	// First the agent: one that only stands still holds its sockets.
	l.End()
	return true
}

// Follow has fn called after each later link.
func (k *Link) Follow(fn func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.told = fn
}

// Open is mount.Host's. While the last try to have a link has failed, it fails
// at once.
func (k *Link) Open(ctx context.Context, req wire.Request) (*link.Stream, wire.Answer, error) {
	for {
		k.mu.Lock()
		l, up, last := k.cur, k.up, k.last
		k.mu.Unlock()
		if l != nil {
			return l.Open(ctx, req)
		}
		if last != nil {
			var e *errno.Error
			if !errors.As(last, &e) {
				e = errno.Errorf(errno.ENETDOWN, errno.LayerLink, "%v", last)
			}
			return nil, wire.Answer{}, e
		}
		select {
		case <-up:
		case <-ctx.Done():
			return nil, wire.Answer{}, context.Cause(ctx)
		case <-k.ctx.Done():
			return nil, wire.Answer{}, errno.Errorf(errno.ENETDOWN, errno.LayerLink, "closed")
		}
	}
}

// Route is mount.Host's.
func (k *Link) Route(s *link.Stream, accepted func(*link.Incoming)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cur == nil || s.Link() != k.cur.Link {
		return // its link is lost already
	}
	routes, id := k.routes, s.ID()
	routes[id] = accepted
	k.ended.Add(1)
	go func() {
		defer k.ended.Done()
		<-s.Done()
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(routes, id)
	}()
}

// Close ends the link.
func (k *Link) Close() {
	k.cancel()
	k.ended.Wait()
}
