package relay

import (
	"errors"
	"sync/atomic"

	"drvsock/internal/errno"
	"drvsock/internal/link"
)

// Bridge passes on between two streams, of two links or one, until both
// directions of both are over: bytes, END, an END with a reason, STOP and RESET
// arrive at the far side as what they were. It owns both and closes both. The
// error says why they did not end in an orderly way, for the log.
//
// The reader of one link writes to the other where there is room at once, by
// splice(2) where the links are pipes; what isn't taken waits in the first stream's
// window, so that a reader that stops stops its own peer alone. Each peer is granted
// what the other one grants. A bridge itself holds a frame each way at most, and
// none when it is idle.
func Bridge(a, b *link.Stream) error {
	ab, ba := &span{from: a, to: b}, &span{from: b, to: a}
	a.GrantFrom(b)
	b.GrantFrom(a)
	a.Deliver(ab)
	b.Deliver(ba)
	<-a.Done()
	<-b.Done()
	_, _ = a.Close(), b.Close()
	for _, s := range []*span{ab, ba} {
		if err := s.failed.Load(); err != nil {
			return *err // the first of the two is the other's reason
		}
	}
	return nil
}

// A span is one direction of a bridge: the sink of from.
type span struct {
	from, to *link.Stream
	failed   atomic.Pointer[error] // why from was reset
}

// TryWrite sends what may be sent now.
func (s *span) TryWrite(p []byte) (done int, err error) {
	for done < len(p) {
		n := min(s.to.TryCredit(), len(p)-done)
		if n == 0 {
			break // or it is over, which Write will meet
		}
		b := link.NewBuffer()
		copy(b.Payload(), p[done:done+n])
		sent, err := s.to.TrySend(b, n)
		if err != nil {
			return done, s.unwritable(err)
		}
		if !sent {
			b.Free() // it is another's turn
			break
		}
		done += n
	}
	return done, nil
}

// TrySplice is TryWrite for bytes that a pipe holds.
func (s *span) TrySplice(pipe, n int) (int, error) {
	n, err := s.to.TrySendFrom(pipe, n)
	if err != nil {
		return 0, s.unwritable(err)
	}
	return n, nil
}

// Write sends all of p.
func (s *span) Write(p []byte) (done int, err error) {
	for done < len(p) {
		n, err := s.to.Credit()
		if err != nil {
			return done, s.unwritable(err)
		}
		b := link.NewBuffer()
		n = copy(b.Payload()[:n], p[done:])
		if err := s.to.Send(b, n); err != nil {
			return done, s.unwritable(err)
		}
		done += n
	}
	return done, nil
}

// unwritable is what the peer of from is told when to takes no more.
func (s *span) unwritable(err error) error {
	var e *errno.Error
	if errors.As(err, &e) {
		return e
	}
	return errno.Errorf(errno.EPIPE, errno.LayerLink, "%v", err)
}

// CloseWrite passes END on.
func (s *span) CloseWrite() error { return s.to.CloseWrite() }

// Fail passes on an END with a reason, or a RESET, or that the link is lost.
func (s *span) Fail(err error) {
	if s.wasReset(err) {
		s.failed.Store(&err)
		s.to.Reset(err)
		return
	}
	_ = s.to.EndWith(err)
}

// wasReset tells whether err is the end of the whole stream, and not of one
// direction: then writing fails with the very same.
func (s *span) wasReset(err error) bool {
	_, werr := s.from.Write(nil) // which writes nothing
	var why, e *errno.Error
	return errors.As(werr, &why) && errors.As(err, &e) && why == e
}

// Stopped passes STOP on: nobody reads what would come from the other side.
func (s *span) Stopped(err error) { _ = s.to.CloseRead(err) }
