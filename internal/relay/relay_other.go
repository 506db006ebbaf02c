//go:build !linux

package relay

import (
	"time"

	"drvsock/internal/link"
)

// A socket is the socket's side of a joint. Here it knows no more than
// net.Conn: a read holds a buffer, a write may block and so is never tried by
// the link's reader, and a full close is noticed by the next write.
type socket struct {
	conn   Conn
	stream *link.Stream
}

type carried struct{ read, send error }

func (s *socket) init(conn Conn, stream *link.Stream, _ bool) error {
	s.conn, s.stream = conn, stream
	return nil
}

func (s *socket) close() { _ = s.conn.Close() }

// carry moves bytes to the stream, once and at most limit.
func (s *socket) carry(limit int) carried {
	b := link.NewBuffer()
	n, err := s.conn.Read(b.Payload()[:limit])
	if n > 0 {
		return carried{send: s.stream.Send(b, n)} // an error of reading comes again
	}
	b.Free()
	return carried{read: err}
}

// past wakes whoever waits with a deadline.
var past = time.Unix(1, 0)

// interrupt ends reading and waitHangup, until resume, and for good writing if
// that is meant too.
func (s *socket) interrupt(writing bool) {
	if writing {
		_ = s.conn.SetDeadline(past)
	} else {
		_ = s.conn.SetReadDeadline(past)
	}
}

func (s *socket) resume() { _ = s.conn.SetReadDeadline(time.Time{}) }

func (s *socket) tryWrite([]byte) (int, error)    { return 0, nil }
func (s *socket) trySplice(int, int) (int, error) { return 0, nil }
func (s *socket) write(p []byte) (int, error)     { return s.conn.Write(p) }
func (s *socket) closeWrite() error               { return s.conn.CloseWrite() }
func (s *socket) hangup() bool                    { return false }
func (s *socket) waitHangup(over <-chan struct{}) bool {
	<-over
	return false
}

func (s *socket) abort()   {} // the Conn's own does it
func (s *socket) unplant() {}

func (s *socket) closeRead() error {
	if c, ok := s.conn.(interface{ CloseRead() error }); ok {
		return c.CloseRead()
	}
	return nil
}
