package link

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"drvsock/internal/errno"
)

// A Sink takes what arrives on a stream, see Deliver. TryWrite, Write and
// CloseWrite are called by one goroutine at a time and in order; Fail may come
// at any moment, also during a Write, which it must end.
//
// An error of TryWrite or Write ends this direction: the peer's writes fail
// with it, and the sink hears no more of it.
//
// A sink may also have the method Stopped(err error): it is called when the
// peer reads no more, so that writing to the stream fails with err.
//
// All methods but Write are called by the goroutine that reads the link, or by
// Deliver, so they must not block.
type Sink interface {
	// TryWrite writes what fits now. n < len(p) with a nil error says that
	// more would block.
	TryWrite(p []byte) (n int, err error)
	// Write writes all of p, however long it takes.
	Write(p []byte) (int, error)
	// CloseWrite comes after the last byte.
	CloseWrite() error
	// Fail says that there is more that will not come: the peer ended with a
	// failure, the stream was reset or the link lost.
	Fail(err error)
}

// A spliceSink is a sink that can take bytes out of a pipe.
//
// TrySplice moves up to n bytes from the pipe to where the sink writes, without
// waiting. 0 with a nil error says that none is there, or that more would
// block, or that it can't be done this way; the bytes then come by TryWrite.
type spliceSink interface {
	TrySplice(pipe, n int) (int, error)
}

// A splicer is a transport that splices; see pipes.
type splicer interface {
	canSplice() bool
	writeFrom(head []byte, from, n int) error
	tryWriteFrom(head []byte, from, n int) (begun bool, left []byte, err error)
	held(pipe int) int
	drainTo(take func(pipe, n int) (int, error), n int) (int, error)
	watch(ready func(fd int32, events uint32) (woke bool)) bool
	control(op, fd int, events uint32) error
	serveNow()
	pause()
}

func stopped(sink Sink, e *errno.Error) {
	if s, ok := sink.(interface{ Stopped(err error) }); ok {
		s.Stopped(e)
	}
}

// A receiver is the direction from the peer. It is guarded by the stream's mu.
type receiver struct {
	cond      sync.Cond // for Read and Unread
	queue     []*chunk
	size      int    // bytes queued
	left      uint32 // bytes that the peer may still send
	used      uint32 // bytes consumed and not granted again yet
	total     uint64 // bytes consumed, for Bytes
	coupled   bool   // granted is what another stream is, see GrantFrom
	ended     bool   // END came
	endReason *errno.Error
	told      bool // the sink knows of the end
	stopped   bool // STOP was sent
	sink      Sink
	draining  bool // a goroutine writes the queue to the sink
	offered   bool // the sink has not answered yet for what it was given
}

const (
	smallChunk = 4 << 10
	bigChunk   = 64 << 10
)

// A chunk is a part of a receive queue. Few bytes take a small one, so that
// many streams with little in their queues stay cheap.
type chunk struct {
	b    []byte
	from int
}

var (
	smallChunks = sync.Pool{New: func() any { return &chunk{b: make([]byte, 0, smallChunk)} }}
	bigChunks   = sync.Pool{New: func() any { return &chunk{b: make([]byte, 0, bigChunk)} }}
)

func (c *chunk) free() {
	c.b, c.from = c.b[:0], 0
	if cap(c.b) == smallChunk {
		smallChunks.Put(c)
	} else {
		bigChunks.Put(c)
	}
}

// push queues a copy of p.
func (r *receiver) push(p []byte) {
	r.size += len(p)
	for len(p) > 0 {
		var c *chunk
		if n := len(r.queue); n > 0 && len(r.queue[n-1].b) < cap(r.queue[n-1].b) {
			c = r.queue[n-1]
		} else {
			if n > 0 || len(p) > smallChunk {
				c = bigChunks.Get().(*chunk)
			} else {
				c = smallChunks.Get().(*chunk)
			}
			r.queue = append(r.queue, c)
		}
		n := copy(c.b[len(c.b):cap(c.b)], p)
		c.b = c.b[:len(c.b)+n]
		p = p[n:]
	}
}

// pop takes the first chunk off the queue; nil if it is empty.
func (r *receiver) pop() *chunk {
	if len(r.queue) == 0 {
		return nil
	}
	c := r.queue[0]
	r.queue[0] = nil
	r.queue = r.queue[1:]
	if len(r.queue) == 0 {
		r.queue = nil
	}
	return c
}

// drop forgets what is queued.
func (r *receiver) drop() {
	for c := r.pop(); c != nil; c = r.pop() {
		c.free()
	}
	r.size = 0
}

// consumed notes that the consumer has taken n bytes. Called with mu.
func (s *Stream) consumed(n int) {
	if !s.r.coupled {
		s.grant(uint32(n))
	}
}

// grant lets the peer send n bytes more; it is told once half the window is to
// be granted. Called with mu.
func (s *Stream) grant(n uint32) {
	r := &s.r
	r.used += n
	if r.used >= (s.l.cfg.Window+1)/2 && !r.ended && !r.stopped && s.failed == nil {
		r.left += r.used
		s.ctl.grant += r.used
		r.used = 0
		s.due()
	}
}

// arriving checks a DATA frame of n bytes and takes it off the window.
func (s *Stream) arriving(n uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.finished.Load():
		return nil
	case !s.open:
		return errors.New("not accepted")
	case s.r.ended:
		return errors.New("after END")
	case n > s.r.left:
		return fmt.Errorf("%d bytes where the window has %d", n, s.r.left)
	}
	s.r.left -= n
	return nil
}

// receive takes bytes of a DATA frame. It never blocks.
func (s *Stream) receive(p []byte) {
	s.mu.Lock()
	defer s.unlock()
	r := &s.r
	if s.finished.Load() || r.stopped {
		return
	}
	if r.sink == nil || r.draining {
		r.push(p)
		r.cond.Signal()
		return
	}
	sink := r.sink
	s.brought(len(p)) // before: who has the last bytes may end the stream, and count
	r.offered = true
	s.mu.Unlock()
	n, err := sink.TryWrite(p)
	s.mu.Lock()
	defer r.answered() // with what is queued below
	s.brought(max(n, 0) - len(p))
	if err != nil {
		s.stopLocked(reasonOf(err, errno.EPIPE))
		return
	}
	s.consumed(n)
	if n < len(p) && !s.finished.Load() && !r.stopped {
		r.push(p[n:])
		r.draining = true
		go s.drain(sink.Write)
	}
}

// splice lets the sink take up to n bytes of a DATA frame out of the transport
// itself, if both can and nothing is queued. It waits for the transport only.
// After 0, the bytes are to be read.
func (s *Stream) splice(t splicer, n int) int {
	s.mu.Lock()
	r := &s.r
	sink, ok := r.sink.(spliceSink)
	if !ok || r.draining || r.stopped || s.finished.Load() {
		s.mu.Unlock()
		return 0
	}
	most := n
	s.brought(most) // as in receive
	r.offered = true
	s.mu.Unlock()
	n, err := t.drainTo(sink.TrySplice, most)
	s.mu.Lock()
	defer s.unlock()
	r.answered()
	s.brought(max(n, 0) - most)
	if err != nil {
		s.stopLocked(reasonOf(err, errno.EPIPE))
		return 0
	}
	s.consumed(n)
	return n
}

// receiveEnd handles END.
func (s *Stream) receiveEnd(reason *errno.Error) error {
	s.mu.Lock()
	r := &s.r
	switch {
	case s.finished.Load():
		s.mu.Unlock()
		return nil
	case !s.open:
		s.mu.Unlock()
		return errors.New("not accepted")
	case r.ended:
		s.mu.Unlock()
		return errors.New("after END")
	}
	r.ended = true
	r.endReason = reason
	s.ctl.grant = 0
	r.cond.Broadcast()
	var sink Sink
	if !r.draining && !r.stopped {
		sink = r.sink
		r.told = sink != nil
	}
	s.unlock()
	if sink != nil {
		tellEnd(sink, reason)
	}
	return nil
}

func tellEnd(sink Sink, reason *errno.Error) {
	if reason != nil {
		sink.Fail(reason)
		return
	}
	_ = sink.CloseWrite() // the socket is gone then, which its reading side shows
}

// Deliver gives sink all that arrives from now on, and what is queued. It is
// called once, and Read no more.
func (s *Stream) Deliver(sink Sink) {
	s.mu.Lock()
	r := &s.r
	r.sink = sink
	failed, whole, stop := s.failed, s.whole, s.w.stop
	queued := (failed == nil || whole) && !r.stopped && (r.size > 0 || r.ended)
	r.draining = queued
	s.mu.Unlock()
	if queued {
		s.drain(sink.TryWrite)
	}
	switch {
	case failed != nil && !whole:
		sink.Fail(failed)
	case failed != nil:
		stopped(sink, failed)
	case stop != nil:
		stopped(sink, stop)
	}
}

// drain writes the queue to the sink until it is empty. Where write is not the sink's
// Write and takes less than it is given, a goroutine goes on.
func (s *Stream) drain(write func(p []byte) (int, error)) {
	r := &s.r
	sink := r.sink
	s.mu.Lock()
	for {
		if s.failed != nil && !s.whole || r.stopped {
			break
		}
		c := r.pop()
		if c == nil {
			if r.ended && !r.told {
				r.told = true
				reason := r.endReason
				s.unlock()
				tellEnd(sink, reason)
				s.mu.Lock()
			}
			break
		}
		n := len(c.b) - c.from
		s.brought(n) // as in receive
		r.offered = true
		s.unlock()
		done, err := write(c.b[c.from:])
		done = max(done, 0)
		s.mu.Lock()
		s.brought(done - n)
		if err == nil && done < n {
			r.answered()
			s.consumed(done)
			if s.failed != nil && !s.whole || r.stopped {
				c.free()
				break
			}
			c.from += done
			r.size -= done
			r.queue = append([]*chunk{c}, r.queue...)
			s.unlock()
			go s.drain(sink.Write)
			return
		}
		c.free()
		r.size = max(r.size-n, 0) // drop may have emptied the queue
		r.answered()
		if err != nil {
			if s.failed == nil {
				s.stopLocked(reasonOf(err, errno.EPIPE))
			}
			break
		}
		s.consumed(n)
	}
	r.draining = false
	s.unlock()
}

// GrantFrom grants the peer of s what the peer of to grants, instead of what was
// consumed. It is for who passes on to to all that arrives on s: then no more
// arrives than can be sent at once, and nothing queues up in between. It is called
// before Deliver and the first byte that is sent on to; s and to may be of one
// link.
//
// Where to has the larger window nothing changes: its peer might wait for more than
// s may bring before it grants anything.
func (s *Stream) GrantFrom(to *Stream) {
	if to.l.peer.Window > s.l.cfg.Window {
		return
	}
	s.mu.Lock()
	s.r.coupled = true
	s.mu.Unlock()
	to.mu.Lock()
	to.w.source = s
	to.mu.Unlock()
}

// grantMore is grant for a stream that is passed on.
func (s *Stream) grantMore(n uint32) {
	s.mu.Lock()
	defer s.unlock()
	s.grant(n)
}

// answered ends what offered says. Called with the stream's mu.
func (r *receiver) answered() {
	r.offered = false
	r.cond.Broadcast()
}

// Unread tells how many bytes have come and wait for Read or the sink. It waits for
// the sink's answer to what it was given: whether that is read, only the sink knows.
func (s *Stream) Unread() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.r.offered {
		s.r.cond.Wait()
	}
	return s.r.size
}

// Read reads what has come. It returns io.EOF after the peer's END, and an
// *errno.Error within a *net.OpError after a reset or the loss of the link.
func (s *Stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.unlock()
	r := &s.r
	for {
		switch {
		case s.closed:
			return 0, s.opError("read", net.ErrClosed)
		case s.rdl.passed:
			return 0, s.opError("read", errDeadline)
		case r.sink != nil:
			return 0, s.opError("read", errors.New("stream is delivered to a sink"))
		case len(p) == 0:
			return 0, nil
		case r.size > 0:
			n := 0
			for n < len(p) && len(r.queue) > 0 {
				c := r.queue[0]
				m := copy(p[n:], c.b[c.from:])
				c.from += m
				n += m
				if c.from == len(c.b) {
					r.pop().free()
				}
			}
			r.size -= n
			s.brought(n)
			s.consumed(n)
			return n, nil
		case s.failed != nil && !s.whole:
			return 0, s.opError("read", s.failed)
		case r.ended && r.endReason != nil:
			return 0, s.opError("read", r.endReason)
		case r.ended || r.stopped:
			return 0, io.EOF
		}
		r.cond.Wait()
	}
}
