package link

import (
	"errors"
	"sync"
	"sync/atomic"

	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

const (
	// smallFrame is the payload up to which a frame goes before bulk ones.
	smallFrame = 4 << 10
	// smallStreak is how many small frames may pass a waiting bulk one.
	smallStreak = 16
	// maxRaw bounds the control frames that wait without a stream to hold
	// them. A peer that asks and asks but doesn't read reaches it.
	maxRaw = 1 << 20
)

var (
	errCanceled = errors.New("canceled")
	errFlood    = errors.New("the other side sends requests without reading the answers")
)

// An outbox orders the writes of one link. One writer at a time has the turn;
// it writes one frame and passes the turn on, to control frames first, then to
// a small frame, then to a bulk frame, each in the order of arrival.
//
// Control frames never wait for room: they are noted, on their stream or here,
// and written by whoever has the turn, or by the outbox's own goroutine.
type outbox struct {
	l   *Link
	try func(p []byte) (int, error) // the transport's TryWrite, nil if it has none

	// writes is odd while a write call is under way; the keeper watches it.
	writes atomic.Uint64

	mu      sync.Mutex
	held    bool
	err     *errno.Error
	cut     bool          // a write failed, maybe within a frame
	idle    chan struct{} // closed when err is set and nobody has the turn
	small   []*waiter
	bulk    []*waiter
	streak  int
	dirty   []*Stream // streams with control frames to send
	raw     []byte    // control frames without a stream
	ping    [8]byte
	pongDue bool
	pingDue bool
	wake    chan struct{}

	scratch []byte // the holder's
	left    []byte // what TryWrite left of a control write, if leftDue; run has the turn then
	leftDue bool
}

type waiter struct{ turn chan bool }

var waiters = sync.Pool{New: func() any { return &waiter{make(chan bool, 1)} }}

func (o *outbox) init(l *Link) {
	o.l = l
	o.idle = make(chan struct{})
	o.wake = make(chan struct{}, 1)
	if t, ok := l.rw.(interface {
		TryWrite(p []byte) (int, error)
	}); ok {
		o.try = t.TryWrite
	}
}

// acquire waits for the turn to write one frame.
func (o *outbox) acquire(bulk bool, cancel <-chan struct{}) error {
	o.mu.Lock()
	if o.err != nil {
		defer o.mu.Unlock()
		return o.err
	}
	if !o.held {
		o.held = true
		o.mu.Unlock()
		return nil
	}
	w := waiters.Get().(*waiter)
	if bulk {
		o.bulk = append(o.bulk, w)
	} else {
		o.small = append(o.small, w)
	}
	o.mu.Unlock()

	var ok, canceled bool
	select {
	case ok = <-w.turn:
	case <-cancel:
		canceled = true
		if !o.forget(w) {
			ok = <-w.turn // given meanwhile
		}
	}
	waiters.Put(w)
	switch {
	case canceled:
		if ok {
			o.release()
		}
		return errCanceled
	case !ok:
		return o.reason()
	}
	return nil
}

// forget takes w out of the queues; false if its turn has come.
func (o *outbox) forget(w *waiter) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, q := range []*[]*waiter{&o.small, &o.bulk} {
		for i, x := range *q {
			if x == w {
				*q = append((*q)[:i], (*q)[i+1:]...)
				return true
			}
		}
	}
	return false
}

func (o *outbox) reason() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// release writes the control frames that are due and passes the turn on.
func (o *outbox) release() {
	for {
		o.mu.Lock()
		if o.err != nil || !o.due() {
			o.pass()
			o.mu.Unlock()
			return
		}
		b := o.control()
		if len(b) > 0 && o.writeDue(b) != nil {
			o.mu.Lock()
			o.pass()
			o.mu.Unlock()
			return
		}
	}
}

// pass gives the turn to the next writer. Called with mu.
func (o *outbox) pass() {
	if o.err != nil {
		if o.held {
			o.held = false
			close(o.idle)
		}
		return
	}
	q := &o.small
	if len(o.small) == 0 || len(o.bulk) > 0 && o.streak >= smallStreak {
		q = &o.bulk
		o.streak = 0
	}
	if len(*q) == 0 {
		o.held = false
		return
	}
	if q == &o.small {
		o.streak++
	}
	w := (*q)[0]
	*q = (*q)[1:]
	if len(*q) == 0 {
		*q = nil
	}
	w.turn <- true
}

// due tells whether control frames wait. Called with mu.
func (o *outbox) due() bool {
	return len(o.dirty) > 0 || len(o.raw) > 0 || o.pongDue || o.pingDue
}

// control takes the control frames that are due. Called with mu, which it
// unlocks, by the holder of the turn.
func (o *outbox) control() []byte {
	b := append(o.scratch[:0], o.raw...)
	o.raw = o.raw[:0]
	if cap(o.raw) > 64<<10 {
		o.raw = nil
	}
	if o.pongDue {
		b = append(wire.Header{Type: wire.TypePong, Length: 8}.Append(b), o.ping[:]...)
		o.pongDue = false
	}
	if o.pingDue {
		b = append(wire.Header{Type: wire.TypePing, Length: 8}.Append(b), make([]byte, 8)...)
		o.pingDue = false
	}
	dirty := o.dirty
	o.dirty = nil
	o.mu.Unlock()
	for _, s := range dirty {
		b = s.control(b)
	}
	o.scratch = b
	if cap(b) > 64<<10 {
		o.scratch = nil
	}
	return b
}

// kick sees to it that control frames that were noted get written. It never
// blocks.
func (o *outbox) kick() {
	o.mu.Lock()
	if o.err != nil || o.held || !o.due() {
		o.mu.Unlock()
		return // whoever has the turn will look
	}
	if o.try == nil {
		o.mu.Unlock()
		o.signal()
		return
	}
	o.held = true
	o.flush()
}

// flush writes the control frames that are due, without blocking, and passes
// the turn on. Called with mu, which it unlocks.
func (o *outbox) flush() {
	for o.err == nil && o.due() {
		b := o.control()
		n := 0
		var err error
		if len(b) > 0 {
			n, err = o.try(b)
		}
		o.mu.Lock()
		if n < len(b) || err != nil {
			o.leave(b[n:])
			return
		}
	}
	o.pass()
	o.mu.Unlock()
}

// leave gives the turn to the outbox's goroutine, which writes b first, or
// meets the error that was met with it as well. Called with mu, which it
// unlocks.
func (o *outbox) leave(b []byte) {
	o.left, o.leftDue = b, true
	o.signal() // with the lock: once the link is known to have ended, run looks for this
	o.mu.Unlock()
}

// tryFrame writes one frame without blocking; what the transport doesn't take
// at once is copied and written later. It returns false, and has done nothing,
// if it isn't its turn.
func (o *outbox) tryFrame(b []byte) (bool, error) {
	o.mu.Lock()
	if o.err != nil || o.held || o.try == nil {
		defer o.mu.Unlock()
		if o.err != nil {
			return false, o.err
		}
		return false, nil
	}
	o.held = true
	o.mu.Unlock()
	n, err := o.try(b)
	o.mu.Lock()
	if n < len(b) || err != nil {
		o.leave(append(o.scratch[:0], b[n:]...))
		return true, nil
	}
	o.flush()
	return true, nil
}

// tryFrameFrom is tryFrame for n bytes that the pipe from holds. It also does
// nothing if not even the header has room.
func (o *outbox) tryFrameFrom(h wire.Header, from, n int) (bool, error) {
	o.mu.Lock()
	if o.err != nil || o.held || o.try == nil {
		defer o.mu.Unlock()
		if o.err != nil {
			return false, o.err
		}
		return false, nil
	}
	o.held = true
	o.mu.Unlock()
	var head [wire.HeaderSize]byte
	h.Put(head[:])
	begun, left, err := o.l.in.t.tryWriteFrom(head[:], from, n)
	if err != nil {
		err = o.broke(err)
		o.mu.Lock()
		o.pass()
		o.mu.Unlock()
		return true, err
	}
	o.mu.Lock()
	switch {
	case len(left) > 0:
		o.leave(left)
	default:
		o.flush()
	}
	return begun, nil
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// run writes control frames for those who must not block.
func (o *outbox) run() {
	for {
		select {
		case <-o.wake:
		case <-o.l.done:
			// The turn may be this goroutine's to give back.
			select {
			case <-o.wake:
			default:
				return
			}
		}
		o.mu.Lock()
		switch {
		case o.leftDue:
			left := o.left
			o.left, o.leftDue = nil, false
			o.mu.Unlock()
			_ = o.writeDue(left) // its error ends the link
			o.release()
		case !o.held && o.err == nil:
			o.held = true
			o.mu.Unlock()
			o.release()
		default:
			o.mu.Unlock()
		}
	}
}

// note puts a stream with control frames on the list. Called with s.mu; kick
// must follow, without it.
func (o *outbox) note(s *Stream) {
	o.mu.Lock()
	o.dirty = append(o.dirty, s)
	o.mu.Unlock()
}

// frame queues a control frame that belongs to no living stream.
func (o *outbox) frame(b []byte) error {
	o.mu.Lock()
	if len(o.raw)+len(b) > maxRaw {
		o.mu.Unlock()
		return errFlood
	}
	o.raw = append(o.raw, b...)
	o.mu.Unlock()
	o.kick()
	return nil
}

// pong answers a ping. Where pings come faster than they can be answered, the
// last one is.
func (o *outbox) pong(p []byte) error {
	o.mu.Lock()
	copy(o.ping[:], p)
	o.pongDue = true
	o.mu.Unlock()
	o.kick()
	return nil
}

func (o *outbox) sendPing() {
	o.mu.Lock()
	o.pingDue = true
	o.mu.Unlock()
	o.kick()
}

// fail ends all waiting for turns; none is given any more. The channel is
// closed when nobody has the turn any longer.
func (o *outbox) fail(err *errno.Error) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.idle
	}
	o.err = err
	for _, w := range append(o.small, o.bulk...) {
		w.turn <- false
	}
	o.small, o.bulk = nil, nil
	if !o.held {
		close(o.idle)
	}
	return o.idle
}

// last writes what is due and then b; called once, after fail, when idle.
func (o *outbox) last(b []byte) {
	o.mu.Lock()
	if o.cut {
		o.mu.Unlock()
		return // it could be taken for payload
	}
	p := append(o.control(), b...)
	_, _ = o.l.rw.Write(p) // the peer may be gone already
}
