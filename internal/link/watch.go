package link

// Watch has the goroutine that reads the link also wait for other descriptors,
// those that Control adds, and call ready for each that is, with its epoll
// events. ready must not block; it tells whether it woke a goroutine. Watch is
// called once, and returns false where the transport can't, see Files.
//
// So one thread passes on both a question and its answer, and a conversation of
// small messages doesn't wake a second one (docs/performance.md).
func (l *Link) Watch(ready func(fd int32, events uint32) (woke bool)) bool {
	return l.in.t != nil && l.in.t.watch(ready)
}

// Control is epoll_ctl(2) on what Watch waits for. It fails once the link has
// ended; then nothing is watched any more.
func (l *Link) Control(op, fd int, events uint32) error { return l.in.t.control(op, fd, events) }

// Busy tells whether much data comes in, so that a socket has to wait for the
// reader's attention.
func (l *Link) Busy() bool { return l.in.busy.Load() > 0 }
