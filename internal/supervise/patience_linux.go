package supervise

import (
	"context"
	"sync"
	"time"

	"drvsock/internal/errno"
	"drvsock/internal/seccomp"
)

// watchEvery is how often calls that still wait are watched for signals, from
// their second such moment on.
const watchEvery = 30 * time.Millisecond

// patience watches the calls that wait: the kernel holds signals back while the
// supervisor works on a call (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV), so a long
// wait must look for them. Most calls are over before: so they share one timer,
// and a timer of each, which may wake a thread to be waited for, is spared.
type patience struct {
	mu      sync.Mutex
	waits   map[*waitingCall]struct{}
	running bool // the timer is
}

// A waitingCall is one of them.
type waitingCall struct {
	notify *seccomp.Listener
	n      seccomp.Notif
	old    bool // the timer has seen it once
	cancel context.CancelCauseFunc
}

// with returns a context that ends when the task no longer wants to wait: it is
// gone, or a signal came for it. The caller calls done.
func (p *patience) with(notify *seccomp.Listener, n seccomp.Notif) (ctx context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	w := &waitingCall{notify: notify, n: n, cancel: cancel}
	p.mu.Lock()
	if p.waits == nil {
		p.waits = map[*waitingCall]struct{}{}
	}
	p.waits[w] = struct{}{}
	if !p.running {
		p.running = true
		time.AfterFunc(watchEvery, p.look)
	}
	p.mu.Unlock()
	return ctx, func() {
		p.mu.Lock()
		delete(p.waits, w)
		p.mu.Unlock()
		cancel(context.Canceled)
	}
}

// look looks at all calls that were there the last time.
func (p *patience) look() {
	p.mu.Lock()
	var old []*waitingCall
	for w := range p.waits {
		if w.old {
			old = append(old, w)
		}
		w.old = true
	}
	p.mu.Unlock()
	for _, w := range old {
		if !w.notify.Valid(w.n.ID) {
			w.cancel(seccomp.ErrGone)
		} else if e := interruption(w.n.TID); e != 0 {
			w.cancel(errno.Errorf(e, errno.LayerGuest, "interrupted by a signal"))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running = len(p.waits) > 0; p.running {
		time.AfterFunc(watchEvery, p.look)
	}
}
