package link

// Bytes tells how many bytes the stream has brought to its consumer here, and
// how many were sent to the peer. Both stay after the stream's end.
func (s *Stream) Bytes() (received, sent uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.r.total, s.w.total
}
