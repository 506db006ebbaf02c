package link

// Bytes tells how many bytes the stream has brought to its consumer here, and
// how many were sent to the peer. Both stay after the stream's end.
func (s *Stream) Bytes() (received, sent uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.r.total, s.w.total
}

// brought counts n bytes as brought to the consumer, or takes them back if n is
// below 0. Called with mu.
func (s *Stream) brought(n int) {
	s.r.total += uint64(n)
	s.l.received.Add(uint64(n))
}

// Bytes is what Stream.Bytes tells, of all streams that the link has had.
func (l *Link) Bytes() (received, sent uint64) { return l.received.Load(), l.sent.Load() }
