package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// A Stream is one connection on a link. It is a net.Conn with half-close and
// reset; the methods may be called by several goroutines at once. None of its
// methods waits for the peer but Read, Write, Credit, Send and SendFrom.
type Stream struct {
	l  *Link
	id uint32

	wmu sync.Mutex // orders Write calls

	// finished is true once frames of the stream mean nothing any more.
	finished atomic.Bool

	mu     sync.Mutex
	open   bool        // accepted
	answer chan answer // where Open waits, nil when answered
	failed *errno.Error
	whole  bool // failed after END had come: what is queued is still delivered
	closed bool
	done   chan struct{} // made when asked for
	ctx    context.Context
	cancel context.CancelFunc
	r      receiver
	w      sender
	ctl    control
	rdl    deadline
	wdl    deadline
}

type answer struct {
	answer wire.Answer
	err    error
}

// control says which control frames of a stream are due.
type control struct {
	listed bool // the outbox has the stream on its list
	grant  uint32
	end    bool
	stop   *errno.Error
	reset  *errno.Error
}

var _ net.Conn = (*Stream)(nil)

func newStream(l *Link, id uint32) *Stream {
	s := &Stream{l: l, id: id}
	s.r.cond.L = &s.mu
	s.w.cond.L = &s.mu
	s.r.left = l.cfg.Window
	s.w.left = l.peer.Window
	return s
}

// Link returns the link that carries the stream.
func (s *Stream) Link() *Link { return s.l }

// ID returns the stream's id on the link.
func (s *Stream) ID() uint32 { return s.id }

// reasonOf gives what to tell the peer about err.
func reasonOf(err error, fallback errno.Errno) *errno.Error {
	var e *errno.Error
	var n errno.Errno
	switch {
	case errors.As(err, &e) && e.Errno != 0:
		return e
	case errors.As(err, &n) && n != 0:
		return &errno.Error{Errno: n, Text: err.Error()}
	case err == nil:
		return &errno.Error{Errno: fallback, Layer: errno.LayerLink}
	}
	return errno.Errorf(fallback, errno.LayerUnknown, "%v", err)
}

// due notes that control frames wait. Called with mu; flush must follow.
func (s *Stream) due() {
	if !s.ctl.listed {
		s.ctl.listed = true
		s.l.out.note(s)
	}
}

// unlock unlocks mu, forgets the stream if both directions are over and gets
// control frames on their way.
func (s *Stream) unlock() {
	kick := s.ctl.listed
	over := false
	if s.w.ended && s.r.ended && !s.finished.Load() {
		over = true
		s.finish()
	}
	s.mu.Unlock()
	if over {
		s.l.remove(s.id)
	}
	if kick {
		s.l.out.kick()
	}
}

// finish marks the stream as over. Called with mu.
func (s *Stream) finish() {
	s.finished.Store(true)
	if s.done != nil {
		close(s.done)
	}
	if s.cancel != nil {
		s.cancel()
	}
}

// control appends the frames that are due. Called by the outbox's holder.
func (s *Stream) control(b []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.ctl
	c.listed = false
	if c.reset != nil {
		b = appendReason(b, wire.TypeReset, s.id, c.reset)
		s.ctl = control{}
		return b
	}
	if c.grant > 0 {
		b = wire.Header{Type: wire.TypeWindow, Stream: s.id, Length: 4}.Append(b)
		b = append(b, byte(c.grant>>24), byte(c.grant>>16), byte(c.grant>>8), byte(c.grant))
		c.grant = 0
	}
	if c.end && !s.w.sending { // else Send notes the stream again
		// An END says that all was sent. If not, the end of the link says enough.
		if !s.w.lost {
			b = appendReason(b, wire.TypeEnd, s.id, s.w.endReason)
		}
		c.end = false
	}
	if c.stop != nil {
		b = appendReason(b, wire.TypeStop, s.id, c.stop)
		c.stop = nil
	}
	return b
}

func appendReason(b []byte, t wire.Type, id uint32, e *errno.Error) []byte {
	start := len(b)
	b = append(b, make([]byte, wire.HeaderSize)...)
	if e != nil {
		b = wire.AppendRefusal(b, e)
	}
	wire.Header{Type: t, Stream: id, Length: uint32(len(b) - start - wire.HeaderSize)}.Put(b[start:])
	return b
}

// accepted handles ACCEPT.
func (s *Stream) accepted(p []byte) error {
	ans, err := wire.ParseAnswer(p)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.unlock()
	if s.finished.Load() {
		return nil
	}
	if s.answer == nil {
		return errors.New("nothing to answer")
	}
	s.open = true
	s.answer <- answer{answer: ans}
	s.answer = nil
	return nil
}

// refused handles REFUSE.
func (s *Stream) refused(e *errno.Error) error {
	s.mu.Lock()
	waits := s.answer != nil || s.finished.Load()
	s.mu.Unlock()
	if !waits {
		return errors.New("nothing to answer")
	}
	s.fail(e)
	s.l.remove(s.id)
	return nil
}

// fail ends both directions with e; false if they are over already. What came
// in full, with its END, is still delivered.
func (s *Stream) fail(e *errno.Error) bool {
	s.mu.Lock()
	if s.finished.Load() {
		s.mu.Unlock()
		return false
	}
	s.failed = e
	s.whole = s.r.ended
	if s.answer != nil {
		s.answer <- answer{err: e}
		s.answer = nil
	}
	if !s.whole {
		s.r.drop()
	}
	s.finish()
	s.r.cond.Broadcast()
	s.w.cond.Broadcast()
	sink, whole := s.r.sink, s.whole
	s.mu.Unlock()
	if sink != nil {
		if whole {
			stopped(sink, e)
		} else {
			sink.Fail(e)
		}
	}
	return true
}

// Reset ends both directions at once: here and there, whatever was not read
// yet is dropped, and reading and writing fail with reason.
func (s *Stream) Reset(reason error) {
	e := reasonOf(reason, errno.ECONNRESET)
	s.mu.Lock()
	if s.finished.Load() {
		s.mu.Unlock()
		return
	}
	s.ctl.reset = e
	s.due()
	s.mu.Unlock()
	s.fail(e)
	s.l.remove(s.id)
	s.l.out.kick()
}

// CloseWrite ends the stream towards the peer, after what was written.
func (s *Stream) CloseWrite() error { return s.end(nil) }

// EndWith ends the stream towards the peer with a failure: the peer reads what
// was written, and then reason instead of the end. The other direction goes on.
func (s *Stream) EndWith(reason error) error {
	return s.end(reasonOf(reason, errno.ECONNRESET))
}

func (s *Stream) end(reason *errno.Error) error {
	s.mu.Lock()
	defer s.unlock()
	if s.failed != nil {
		return s.failed
	}
	s.endLocked(reason)
	return nil
}

func (s *Stream) endLocked(reason *errno.Error) {
	if s.w.ended {
		return
	}
	s.w.ended = true
	s.w.endReason = reason
	s.ctl.end = true
	s.due()
	s.w.cond.Broadcast()
}

// EndBoth is CloseWrite, or EndWith where reason is not nil, and CloseRead with
// stop; the peer hears of both at once. A direction that has ended stays as it is.
func (s *Stream) EndBoth(reason, stop error) error {
	var e *errno.Error
	if reason != nil {
		e = reasonOf(reason, errno.ECONNRESET)
	}
	s.mu.Lock()
	defer s.unlock()
	if s.failed != nil {
		return s.failed
	}
	s.endLocked(e)
	s.stopLocked(reasonOf(stop, errno.EPIPE))
	return nil
}

// CloseRead drops what was not read and tells the peer that nothing more will
// be: its writes fail with reason, or EPIPE for nil.
func (s *Stream) CloseRead(reason error) error {
	s.mu.Lock()
	defer s.unlock()
	if s.failed != nil {
		return s.failed
	}
	s.stopLocked(reasonOf(reason, errno.EPIPE))
	return nil
}

func (s *Stream) stopLocked(e *errno.Error) {
	if s.r.stopped {
		return
	}
	s.r.stopped = true
	if !s.r.ended || s.r.size > 0 {
		s.ctl.stop = e
		s.due()
	}
	s.r.drop()
	s.r.cond.Broadcast()
}

// Close is CloseWrite and CloseRead; Read and Write fail with net.ErrClosed
// from now on.
func (s *Stream) Close() error {
	s.mu.Lock()
	defer s.unlock()
	s.closed = true
	if s.failed == nil {
		s.endLocked(nil)
		s.stopLocked(reasonOf(nil, errno.EPIPE))
	}
	s.r.cond.Broadcast()
	s.w.cond.Broadcast()
	s.rdl.stop()
	s.wdl.stop()
	return nil
}

// Done is closed when both directions are over: ended by each side, reset, or
// lost with the link. Bytes that came before may still wait for Read.
func (s *Stream) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done == nil {
		s.done = make(chan struct{})
		if s.finished.Load() {
			close(s.done)
		}
	}
	return s.done
}

func (s *Stream) context() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil {
		s.ctx, s.cancel = context.WithCancel(context.Background())
		if s.finished.Load() {
			s.cancel()
		}
	}
	return s.ctx
}

// An Addr is the address of a stream's end.
type Addr struct{ text string }

// Network returns "drvsock".
func (a Addr) Network() string { return "drvsock" }

// String says which side and which stream.
func (a Addr) String() string { return a.text }

// LocalAddr names this side and the stream.
func (s *Stream) LocalAddr() net.Addr {
	return Addr{fmt.Sprintf("%s/%d", s.l.cfg.Role, s.id)}
}

// RemoteAddr names the peer's side and the stream.
func (s *Stream) RemoteAddr() net.Addr {
	return Addr{fmt.Sprintf("%s/%d", s.l.peer.Role, s.id)}
}

// A deadline is guarded by the stream's mu.
type deadline struct {
	timer  *time.Timer
	gen    int
	passed bool
	cancel chan struct{} // closed when it passes; nil without a deadline
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.gen++
}

func (s *Stream) setDeadline(d *deadline, cond *sync.Cond, t time.Time) {
	d.stop()
	if d.cancel == nil || d.passed {
		d.cancel = make(chan struct{})
	}
	d.passed = false
	if t.IsZero() {
		return
	}
	pass := func() {
		d.passed = true
		close(d.cancel)
		cond.Broadcast()
	}
	wait := time.Until(t)
	if wait <= 0 {
		pass()
		return
	}
	gen := d.gen
	d.timer = time.AfterFunc(wait, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if d.gen == gen {
			pass()
		}
	})
}

// SetDeadline sets both deadlines, as net.Conn says.
func (s *Stream) SetDeadline(t time.Time) error { return s.setDeadlines(t, true, true) }

// SetReadDeadline sets when Read gives up with os.ErrDeadlineExceeded.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.setDeadlines(t, true, false) }

// SetWriteDeadline sets when Write, Credit and Send give up with
// os.ErrDeadlineExceeded. A frame whose writing to the link has begun is
// written to its end.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.setDeadlines(t, false, true) }

func (s *Stream) setDeadlines(t time.Time, r, w bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return s.opError("set", net.ErrClosed)
	}
	if r {
		s.setDeadline(&s.rdl, &s.r.cond, t)
	}
	if w {
		s.setDeadline(&s.wdl, &s.w.cond, t)
	}
	return nil
}

func (s *Stream) opError(op string, err error) error {
	if err == nil {
		return nil
	}
	return &net.OpError{Op: op, Net: "drvsock", Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: err}
}

var errDeadline = os.ErrDeadlineExceeded
