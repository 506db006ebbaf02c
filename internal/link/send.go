package link

import (
	"errors"
	"net"
	"sync"

	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// A sender is the direction to the peer. It is guarded by the stream's mu.
type sender struct {
	cond      sync.Cond // for Credit
	left      uint32    // bytes that may be sent
	sending   bool      // a DATA frame is on its way to the link
	lost      bool      // one found the link ended
	total     uint64    // bytes sent, for Bytes
	ended     bool      // END was sent or is due
	endReason *errno.Error
	stop      *errno.Error // the peer's STOP
	waits     int          // goroutines in Credit
	credited  func()       // called with the next credit, see TryCreditOr
	source    *Stream      // gets what is granted here, see GrantFrom
}

// A Buffer is a DATA frame under construction.
type Buffer struct {
	b [wire.HeaderSize + wire.MaxData]byte
}

var buffers = sync.Pool{New: func() any { return new(Buffer) }}

// NewBuffer takes a buffer from a pool. It goes back by Free or Send.
func NewBuffer() *Buffer { return buffers.Get().(*Buffer) }

// Payload is the room for wire.MaxData bytes of payload.
func (b *Buffer) Payload() []byte { return b.b[wire.HeaderSize:] }

// Free gives the buffer back.
func (b *Buffer) Free() { buffers.Put(b) }

// granted handles WINDOW.
func (s *Stream) granted(n uint32) error {
	s.mu.Lock()
	switch {
	case s.finished.Load() || s.w.ended:
		s.mu.Unlock()
		return nil
	case !s.open:
		s.mu.Unlock()
		return errors.New("not accepted")
	case n == 0 || n > wire.MaxWindow-s.w.left:
		s.mu.Unlock()
		return errors.New("credit out of bounds")
	}
	s.w.left += n
	if s.w.waits > 0 {
		s.w.cond.Broadcast()
		s.l.in.woke = true
	}
	source, credited := s.w.source, s.w.credited
	s.w.credited = nil
	s.mu.Unlock() // the two may be each other's source
	if source != nil {
		source.grantMore(n)
	}
	if credited != nil {
		credited()
	}
	return nil
}

// receiveStop handles STOP: the direction ends as if this side had ended it.
func (s *Stream) receiveStop(e *errno.Error) error {
	s.mu.Lock()
	if s.finished.Load() || s.w.stop != nil {
		s.mu.Unlock()
		return nil
	}
	if !s.open {
		s.mu.Unlock()
		return errors.New("not accepted")
	}
	s.w.stop = e
	s.endLocked(nil)
	s.w.cond.Broadcast()
	sink := s.r.sink
	s.unlock()
	if sink != nil {
		stopped(sink, e)
	}
	return nil
}

// writable says why nothing may be written, nil if it may. Called with mu.
func (s *Stream) writable() error {
	switch {
	case s.closed:
		return net.ErrClosed
	case s.failed != nil:
		return s.failed
	case s.w.stop != nil:
		return s.w.stop
	case s.w.ended:
		return errno.Errorf(errno.EPIPE, errno.LayerLink, "stream is closed for writing")
	case s.wdl.passed:
		return errDeadline
	}
	return nil
}

// Credit waits until bytes may be sent and tells how many, at most
// wire.MaxData. For a single writer the number stays valid until it sends.
func (s *Stream) Credit() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if err := s.writable(); err != nil {
			return 0, err
		}
		if s.w.left > 0 {
			return int(min(s.w.left, wire.MaxData)), nil
		}
		s.w.waits++
		s.w.cond.Wait()
		s.w.waits--
	}
}

// TryCredit is Credit without waiting; it returns 0 where Credit would wait or
// fail.
func (s *Stream) TryCredit() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writable() != nil {
		return 0
	}
	return int(min(s.w.left, wire.MaxData))
}

// TryCreditOr is TryCredit, but n may be more than one frame's; where bytes may be
// sent only once the peer grants more, waits is true, and credited is called when it
// has. The goroutine that reads the link calls it, so it must not block. When nothing
// may be sent any more it is not called.
func (s *Stream) TryCreditOr(credited func()) (n int, waits bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writable() != nil {
		return 0, false
	}
	if s.w.left == 0 {
		s.w.credited = credited
		return 0, true
	}
	return int(s.w.left), false
}

// Send sends the first n bytes of b's payload as one frame, by one write to
// the link, and frees b. n is at least 1 and at most what Credit allowed. It
// waits for its turn on the link, which the peer cannot hold up without ending
// the link after Config.DeadAfter.
func (s *Stream) Send(b *Buffer, n int) error {
	defer b.Free()
	if n == 0 {
		return nil
	}
	return s.send(n, func(h wire.Header) error {
		h.Put(b.b[:])
		return s.l.out.write(b.b[:wire.HeaderSize+n])
	})
}

// CanSplice tells whether SendFrom works.
func (s *Stream) CanSplice() bool { return s.l.in.t != nil && s.l.in.t.canSplice() }

// SendFrom is Send for n bytes that the pipe from holds, a descriptor that
// stays the caller's. They are moved, not copied. After an error the pipe may
// still hold some.
func (s *Stream) SendFrom(from, n int) error {
	return s.send(n, func(h wire.Header) error { return s.l.out.writeFrom(h, from, n) })
}

// TrySend is Send without waiting. It returns false, and has done nothing, if
// it isn't this stream's turn on the link. b is freed unless that is so.
func (s *Stream) TrySend(b *Buffer, n int) (bool, error) {
	if _, err := s.beginSend(n); err != nil {
		b.Free()
		return true, err
	}
	wire.Header{Type: wire.TypeData, Stream: s.id, Length: uint32(n)}.Put(b.b[:])
	sent, err := s.l.out.tryFrame(b.b[:wire.HeaderSize+n])
	s.endSend(n, sent, err)
	if sent || err != nil {
		b.Free()
		return true, err
	}
	return false, nil
}

// TrySendFrom sends up to n bytes that the pipe from holds as one frame, without
// waiting, and tells how many. 0 with a nil error says that there are none, that it
// isn't this stream's turn on the link, that no credit is left, or that the link
// can't do it; nothing was done then. from stays the caller's, which is its only
// reader.
func (s *Stream) TrySendFrom(from, n int) (int, error) {
	t := s.l.in.t
	if t == nil || !t.canSplice() {
		return 0, nil
	}
	n = min(n, s.TryCredit(), t.held(from))
	if n <= 0 {
		return 0, nil
	}
	if _, err := s.beginSend(n); err != nil {
		return 0, err
	}
	sent, err := s.l.out.tryFrameFrom(wire.Header{Type: wire.TypeData, Stream: s.id, Length: uint32(n)}, from, n)
	s.endSend(n, sent, err)
	if !sent {
		return 0, err
	}
	return n, err
}

// send has write write one DATA frame of n bytes.
func (s *Stream) send(n int, write func(h wire.Header) error) error {
	cancel, err := s.beginSend(n)
	if err != nil {
		return err
	}
	o := &s.l.out
	sent := false
	if err = o.acquire(n > smallFrame, cancel); err == nil {
		err = write(wire.Header{Type: wire.TypeData, Stream: s.id, Length: uint32(n)})
		sent = true
		o.release()
	}
	s.endSend(n, sent, err)
	if err == errCanceled {
		return errDeadline
	}
	return err
}

// beginSend takes n bytes off the credit; endSend must follow.
func (s *Stream) beginSend(n int) (cancel <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.writable()
	if err == nil && (n < 0 || n > int(min(s.w.left, wire.MaxData)) || s.w.sending) {
		err = errno.Errorf(errno.EINVAL, errno.LayerLink, "sending of %d bytes where %d may be sent", n, s.w.left)
	}
	if err != nil {
		return nil, err
	}
	s.w.left -= uint32(n)
	s.w.sending = true
	return s.wdl.cancel, nil
}

func (s *Stream) endSend(n int, sent bool, err error) {
	s.mu.Lock()
	s.w.sending = false
	s.w.lost = s.w.lost || !sent && err != nil && err != errCanceled
	if sent {
		s.w.total += uint64(n)
		s.l.sent.Add(uint64(n))
	} else {
		s.w.left += uint32(n)
	}
	if s.ctl.end {
		s.due()
	}
	s.unlock()
}

// Write writes p, in frames, as the peer's window allows.
func (s *Stream) Write(p []byte) (int, error) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	done := 0
	for first := true; first || done < len(p); first = false {
		if len(p) == 0 {
			s.mu.Lock()
			err := s.writable()
			s.mu.Unlock()
			return 0, s.opError("write", err)
		}
		n, err := s.Credit()
		if err != nil {
			return done, s.opError("write", err)
		}
		b := NewBuffer()
		n = copy(b.Payload()[:n], p[done:])
		if err := s.Send(b, n); err != nil {
			return done, s.opError("write", err)
		}
		done += n
	}
	return done, nil
}
