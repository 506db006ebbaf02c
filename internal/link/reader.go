package link

import (
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"

	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// readSize is how much the reader asks of the transport at once: two full
// frames, and twice what a pipe holds by default (pipe(7)).
const readSize = 2 * (wire.MaxData + wire.HeaderSize)

// A reader takes frames off the transport. Payload of DATA frames goes to its
// stream from the read buffer, as it comes in; all other frames are small
// enough to be gathered in the buffer first.
type reader struct {
	l        *Link
	buf      []byte
	from, to int // the unread part of buf

	cur  *Stream // stream of the DATA frame under way, nil if it is finished
	left int     // bytes of its payload to come
	last *Stream // the stream looked up last

	t splicer // the transport if it splices, else nil
	// bulk is true after a DATA frame whose payload may have been spliced. Then
	// the next header is read alone, so that its payload may be as well.
	bulk bool
	// busy is above 0 for some DATA frames after a bulk one. The reader alone
	// changes it.
	busy atomic.Int32
	woke bool // a frame came for which a goroutine may wait
}

// spliceMin is the payload from which splicing is cheaper than copying.
const spliceMin = 16 << 10

const (
	// calmAfter is how many small DATA frames must follow a bulk one before
	// the reader has time for sockets again.
	calmAfter = 64
	// glanceEvery is after how many bulk frames it looks after those that it
	// still has. Looking takes a hundredth of the time of that many.
	glanceEvery = 4
)

func (r *reader) init(l *Link) {
	r.l = l
	r.buf = make([]byte, readSize)
	r.t, _ = l.rw.(splicer)
}

// fill reads more, after making room behind what is unread.
func (r *reader) fill() error {
	if r.from == r.to {
		r.from, r.to = 0, 0
	} else if r.from > 0 {
		copy(r.buf, r.buf[r.from:r.to])
		r.from, r.to = 0, r.to-r.from
	}
	room := r.buf[r.to:]
	if r.bulk && r.left == 0 && r.to < wire.HeaderSize {
		room = r.buf[r.to:wire.HeaderSize]
	}
	for range 100 {
		n, err := r.l.rw.Read(room)
		r.to += n
		if n > 0 {
			r.l.heard.Store(true)
			return nil // an error comes again with the next read
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// peek returns at least n unread bytes, at most len(buf), or what there is and
// the error that ended the link. It stops early where the first bytes cannot
// be a hello's, see readHello.
func (r *reader) peek(n int) ([]byte, error) {
	for r.to-r.from < n {
		if err := r.fill(); err != nil {
			return r.buf[r.from:r.to], err
		}
		if b := r.buf[r.from:r.to]; n == wire.HelloSize && b[0] != wire.Magic[0] {
			return b, nil
		}
	}
	return r.buf[r.from:][:n], nil
}

func (r *reader) skip(n int) { r.from += n }

// run reads until the link ends.
func (r *reader) run() {
	for {
		if err := r.parse(); err != nil {
			r.l.protocolError(err)
			return
		}
		select {
		case <-r.l.done:
			return
		default:
		}
		if r.splice() {
			continue
		}
		if r.woke {
			// Whoever waits for such a frame has been made ready, on a P
			// that the wait for more may keep. Let it run first.
			r.woke = false
			runtime.Gosched()
		}
		if err := r.fill(); err != nil {
			r.l.lost("read from", err)
			return
		}
	}
}

// splice has the stream take what is to come of a DATA frame out of the
// transport; false if that is not the way.
func (r *reader) splice() bool {
	if !r.bulk || r.left == 0 || r.from < r.to || r.cur == nil {
		return false
	}
	n := r.cur.splice(r.t, r.left)
	if n == 0 {
		return false
	}
	r.left -= n
	r.l.heard.Store(true)
	return true
}

// parse handles all that the buffer holds in full, and what it holds of a DATA
// frame.
func (r *reader) parse() error {
	for r.from < r.to {
		if r.left > 0 {
			n := min(r.left, r.to-r.from)
			if r.cur != nil {
				r.cur.receive(r.buf[r.from : r.from+n])
			}
			r.from += n
			r.left -= n
			continue
		}
		if r.to-r.from < wire.HeaderSize {
			return nil
		}
		h, err := wire.ParseHeader(r.buf[r.from:])
		if err != nil {
			return err
		}
		if h.Type == wire.TypeData {
			r.skip(wire.HeaderSize)
			if r.cur, err = r.data(h); err != nil {
				return err
			}
			r.left = int(h.Length)
			r.bulk = r.left >= spliceMin && r.t != nil
			if r.bulk {
				r.t.pause()
			}
			switch {
			case r.bulk && r.busy.Load() > calmAfter:
				r.busy.Add(-1)
			case r.bulk:
				r.busy.Store(calmAfter + glanceEvery - 1)
				r.t.serveNow()
			case r.busy.Load() > 0:
				r.busy.Store(min(r.busy.Load(), calmAfter) - 1)
			}
			continue
		}
		if r.t != nil {
			r.t.pause()
		}
		r.bulk = false
		r.woke = r.woke || h.Type != wire.TypeWindow // granted tells that itself
		if r.to-r.from < wire.HeaderSize+int(h.Length) {
			return nil
		}
		r.skip(wire.HeaderSize)
		payload := r.buf[r.from : r.from+int(h.Length)]
		r.skip(int(h.Length))
		if err := r.frame(h, payload); err != nil {
			return err
		}
	}
	return nil
}

// data finds the stream of a DATA frame and takes its length off the window.
func (r *reader) data(h wire.Header) (*Stream, error) {
	s, err := r.stream(h)
	if s == nil || err != nil {
		return nil, err
	}
	if err := s.arriving(h.Length); err != nil {
		return nil, fmt.Errorf("DATA frame for stream %d: %w", h.Stream, err)
	}
	return s, nil
}

// stream returns the stream of h, or nil if it is finished. An id that was
// never opened is an error.
func (r *reader) stream(h wire.Header) (*Stream, error) {
	l := r.l
	if s := r.last; s != nil && s.id == h.Stream && !s.finished.Load() {
		return s, nil
	}
	l.mu.Lock()
	s := l.streams[h.Stream]
	opened := h.Stream <= l.lastID
	if l.ours(h.Stream) {
		opened = l.nextID == 0 || h.Stream < l.nextID
	}
	l.mu.Unlock()
	if s == nil && !opened {
		return nil, fmt.Errorf("%s frame for stream %d, which was never opened", h.Type, h.Stream)
	}
	r.last = s
	return s, nil
}

// ours tells whether this side opens streams with ids like id.
func (l *Link) ours(id uint32) bool {
	return (id%2 == 1) == (l.cfg.Role == wire.RoleGuest)
}

// frame handles any frame but DATA. An error breaks the protocol.
func (r *reader) frame(h wire.Header, p []byte) error {
	switch h.Type {
	case wire.TypeOpen:
		return r.l.opened(h.Stream, p)
	case wire.TypePing:
		return r.l.out.pong(p)
	case wire.TypePong:
		return nil // any byte read is the sign of life
	case wire.TypeGoaway:
		return r.goaway(p)
	}
	s, err := r.stream(h)
	if s == nil || err != nil {
		return err
	}
	var reason *errno.Error
	switch h.Type {
	case wire.TypeRefuse, wire.TypeStop, wire.TypeReset:
		reason, err = wire.ParseRefusal(p)
	case wire.TypeEnd:
		if len(p) > 0 {
			reason, err = wire.ParseRefusal(p)
		}
	}
	if err == nil {
		switch h.Type {
		case wire.TypeAccept:
			err = s.accepted(p)
		case wire.TypeRefuse:
			err = s.refused(reason)
		case wire.TypeEnd:
			err = s.receiveEnd(reason)
		case wire.TypeStop:
			err = s.receiveStop(reason)
		case wire.TypeReset:
			s.fail(reason)
			r.l.remove(s.id)
		case wire.TypeWindow:
			err = s.granted(binary.BigEndian.Uint32(p))
		}
	}
	if err != nil {
		return fmt.Errorf("%s frame for stream %d: %w", h.Type, h.Stream, err)
	}
	return nil
}

func (r *reader) goaway(p []byte) error {
	if len(p) == 0 {
		r.l.shutdown(io.EOF, nil)
		return nil
	}
	reason, err := wire.ParseRefusal(p)
	if err != nil {
		return fmt.Errorf("GOAWAY frame: %w", err)
	}
	r.l.shutdown(fmt.Errorf("the other side ended the link: %w", reason), nil)
	return nil
}
