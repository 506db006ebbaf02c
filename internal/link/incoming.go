package link

import (
	"context"
	"fmt"

	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// An Incoming is a request of the peer. The handler answers it once, with
// Accept or Refuse; if it returns without an answer, the request is refused
// with EIO. It is used by one goroutine.
type Incoming struct {
	Request wire.Request
	ID      uint32 // of the stream

	s        *Stream
	answered bool
}

// opened handles an OPEN frame.
func (l *Link) opened(id uint32, p []byte) error {
	if l.ours(id) {
		return fmt.Errorf("OPEN frame for stream %d, an id of this side", id)
	}
	req, perr := wire.ParseRequest(p)
	l.mu.Lock()
	if id <= l.lastID {
		defer l.mu.Unlock()
		return fmt.Errorf("OPEN frame for stream %d after %d", id, l.lastID)
	}
	l.lastID = id
	var refusal *errno.Error
	switch {
	case l.ended:
		l.mu.Unlock()
		return nil
	case perr != nil:
		refusal = errno.Errorf(errno.EINVAL, errno.LayerLink, "%v", perr)
	case l.cfg.Handler == nil:
		refusal = errno.Errorf(errno.EOPNOTSUPP, errno.LayerLink, "the %s takes no requests", l.cfg.Role)
	case len(l.streams) >= wire.MaxStreams:
		refusal = errno.Errorf(errno.ENFILE, errno.LayerLink, "%d streams are open on the link", len(l.streams))
	case l.pending >= wire.MaxPending:
		refusal = errno.Errorf(errno.ENFILE, errno.LayerLink, "%d requests wait for their answers", l.pending)
	}
	if refusal != nil {
		l.mu.Unlock()
		return l.refuse(id, refusal)
	}
	s := newStream(l, id)
	l.streams[id] = s
	l.pending++
	l.mu.Unlock()
	go l.handle(&Incoming{Request: req, ID: id, s: s})
	return nil
}

func (l *Link) handle(in *Incoming) {
	l.cfg.Handler(in)
	in.Refuse(errno.Errorf(errno.EIO, errno.LayerLink, "no answer"))
}

// refuse queues a REFUSE frame.
func (l *Link) refuse(id uint32, e *errno.Error) error {
	b := wire.AppendRefusal(make([]byte, wire.HeaderSize, 128), e)
	wire.Header{Type: wire.TypeRefuse, Stream: id, Length: uint32(len(b) - wire.HeaderSize)}.Put(b)
	return l.out.frame(b)
}

// answer marks the request as answered; false if it was before.
func (in *Incoming) answer() bool {
	if in.answered {
		return false
	}
	in.answered = true
	l := in.s.l
	l.mu.Lock()
	l.pending--
	l.mu.Unlock()
	return true
}

// Context ends when the opener resets the stream, when the stream is over or
// when the link ends.
func (in *Incoming) Context() context.Context { return in.s.context() }

// Accept answers the request and opens the stream. The error says that the
// request or the link has ended meanwhile.
func (in *Incoming) Accept(ans wire.Answer) (*Stream, error) {
	s := in.s
	if !in.answer() {
		return nil, errno.Errorf(errno.EINVAL, errno.LayerLink, "request is answered already")
	}
	b := ans.Append(make([]byte, wire.HeaderSize, 32))
	wire.Header{Type: wire.TypeAccept, Stream: s.id, Length: uint32(len(b) - wire.HeaderSize)}.Put(b)
	if err := s.l.out.acquire(false, nil); err != nil {
		return nil, err
	}
	s.mu.Lock()
	failed := s.failed
	s.open = true
	s.mu.Unlock()
	if failed != nil {
		s.l.out.release()
		return nil, failed
	}
	err := s.l.out.write(b)
	s.l.out.release()
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Refuse answers the request with err: an *errno.Error or errno.Errno in it is
// kept, any other error is sent as EIO with its text. It does nothing if the
// request is answered.
func (in *Incoming) Refuse(err error) {
	if !in.answer() {
		return
	}
	s := in.s
	e := reasonOf(err, errno.EIO)
	if s.fail(e) {
		s.l.remove(s.id)
		if err := s.l.refuse(s.id, e); err != nil {
			s.l.protocolError(err)
		}
	}
}
