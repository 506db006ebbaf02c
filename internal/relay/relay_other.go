//go:build !linux

package relay

import "drvsock/internal/link"

// A socket is the socket's side of a joint. Here it knows no more than
// net.Conn: a read holds a buffer, a write may block and so is never tried by
// the link's reader, and a full close is noticed by the next write.
type socket struct {
	conn Conn
}

func (s *socket) init(conn Conn, _ bool) error {
	s.conn = conn
	return nil
}

func (s *socket) read(limit int) (*link.Buffer, int, error) {
	b := link.NewBuffer()
	n, err := s.conn.Read(b.Payload()[:limit])
	if n > 0 {
		return b, n, nil // an error comes again with the next read
	}
	b.Free()
	return nil, 0, err
}

func (s *socket) tryWrite([]byte) (int, error) { return 0, nil }

func (s *socket) hangup() bool { return false }

func (s *socket) waitHangup(over <-chan struct{}) bool {
	<-over
	return false
}
