package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"drvsock/internal/errno"
	"drvsock/internal/link"

	"golang.org/x/sys/unix"
)

// soPassRights is SO_PASSRIGHTS of Linux 6.16: at 0, a peer that sends
// SCM_RIGHTS gets EPERM from its sendmsg.
const soPassRights = 83

// spliceFrom is what one read must bring for the next to be a splice.
const spliceFrom = 32 << 10

// sendBuffer is what is asked for towards the program; net.core.wmem_max bounds
// it, by default to 208 KiB, which count twice (socket(7)). One stream is a
// quarter faster and more with it than with the default, which is half of that.
const sendBuffer = 1 << 20

var errRights = errno.Errorf(errno.EPERM, errno.LayerLink, "file descriptors cannot be sent to the other side")

// A socket is the socket's side of a joint. It owns a descriptor, which the
// runtime's poller doesn't know. While carry waits, the reactor's thread does
// the reading.
type socket struct {
	s      *link.Stream
	r      *reactor
	rights bool // descriptors may arrive, so look for them

	// The descriptor, -1 when closed: set with both locks, used with either.
	// The two directions have one each, since the program may answer while the
	// call that brought it the question has not returned yet.
	fd int

	wmu  sync.Mutex
	cutW bool // writing is over, see interrupt

	mu      sync.Mutex
	armed   uint32 // events that the reactor waits for
	cut     bool   // reading is over, see interrupt
	cutRoom bool   // write doesn't wait any more
	reading bool   // carry or waitHangup waits
	hupOnly bool   // it is waitHangup
	moving  bool   // the reactor's thread is moving bytes, without mu
	writing bool   // write waits
	broken  bool   // no waiting any more, memory is short
	outcome carried
	read    chan struct{} // ends the waiting of carry and waitHangup
	room    chan struct{} // ends the waiting of write; made when needed

	// The rest is the reactor's thread's.
	bulk   bool // the last read brought much
	copies bool // splice(2) does not work here
}

// carried says why carry ended: an error of reading, or of sending, or none if
// the stream had no more credit.
type carried struct{ read, send error }

func (s *socket) init(conn Conn, stream *link.Stream, passRights bool) error {
	s.s, s.fd = stream, -1
	s.read = make(chan struct{}, 1)
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return errno.Errorf(errno.ENOTSOCK, errno.LayerLink, "connection is no socket")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		domain, derr := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN)
		if derr != nil {
			err = derr
			return
		}
		if domain == unix.AF_UNIX {
			s.rights = !passRights || unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, soPassRights, 0) != nil
		}
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer) // or the default does
		s.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3)
	})
	if err = errors.Join(err, cerr); err != nil {
		return err
	}
	_ = conn.Close() // the copy lives, and the poller is out
	if s.r, err = enterReactor(stream.Link(), s); err != nil {
		s.close()
	}
	return err
}

// close closes the socket; nobody waits any more.
func (s *socket) close() {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return
	}
	if s.r != nil {
		s.reading, s.writing = false, false
		s.arm()
		s.r.leave(s.s.Link(), s.fd)
	}
	_ = unix.Close(s.fd)
	s.fd = -1
}

// arm tells the kernel what is waited for. Called with mu.
func (s *socket) arm() {
	var want uint32
	if s.reading {
		want = unix.EPOLLRDHUP // some bit, since 0 means none here
		if !s.hupOnly {
			want = unix.EPOLLIN
		}
	}
	if s.writing {
		want |= unix.EPOLLOUT
	}
	if want == s.armed {
		return
	}
	op := unix.EPOLL_CTL_MOD
	switch {
	case s.armed == 0:
		op = unix.EPOLL_CTL_ADD
	case want == 0:
		op = unix.EPOLL_CTL_DEL
	}
	ev := unix.EpollEvent{Events: want, Fd: int32(s.fd)}
	if s.hupOnly {
		ev.Events &^= unix.EPOLLRDHUP // EPOLLHUP comes unasked
	}
	if unix.EpollCtl(s.r.ep, op, s.fd, &ev) != nil {
		// Out of memory or of fs.epoll.max_user_watches. Whoever waits ends.
		s.armed = 0
		s.broken = true
		s.end(carried{read: errno.ENOMEM})
		s.endWrite()
		return
	}
	s.armed = want
}

// end ends the waiting of carry and waitHangup. Called with mu.
func (s *socket) end(why carried) {
	if s.reading {
		s.reading = false
		s.outcome = why
		s.read <- struct{}{}
	}
}

func (s *socket) endWrite() {
	if s.writing {
		s.writing = false
		s.room <- struct{}{}
	}
}

// interrupt ends carry and waitHangup, until resume, and for good writing if
// that is meant too.
func (s *socket) interrupt(writing bool) {
	if writing {
		s.wmu.Lock()
		s.cutW = true
		s.wmu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut = true
	if !s.moving { // else the reactor's thread will see it
		s.end(carried{read: os.ErrDeadlineExceeded})
	}
	if writing {
		s.cutRoom = true
		s.endWrite()
	}
	if s.fd >= 0 {
		s.arm()
	}
}

func (s *socket) resume() {
	s.mu.Lock()
	s.cut = false
	s.mu.Unlock()
}

// carry moves bytes to the stream until it has no more credit, or for good.
func (s *socket) carry(int) carried { return s.wait(false) }

// waitHangup waits until the program has closed the socket, true, or over is
// closed and interrupt was called.
func (s *socket) waitHangup(over <-chan struct{}) bool {
	why := s.wait(true)
	select {
	case <-over:
		return false
	default:
	}
	if why.read != nil {
		<-over
		return false
	}
	return true
}

func (s *socket) wait(hupOnly bool) carried {
	s.mu.Lock()
	if s.cut || s.fd < 0 {
		s.mu.Unlock()
		return carried{read: os.ErrDeadlineExceeded}
	}
	s.reading, s.hupOnly = true, hupOnly
	s.arm()
	s.mu.Unlock()
	<-s.read
	return s.outcome
}

// ready is called by the reactor's thread. It tells whether a goroutine was
// woken.
func (s *socket) ready(r *reactor, events uint32) (woke bool) {
	const gone = unix.EPOLLHUP | unix.EPOLLERR
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return false
	}
	reading, writing := s.reading, s.writing
	if events&(unix.EPOLLOUT|gone) != 0 {
		s.endWrite()
	}
	switch {
	case !s.reading || s.moving:
	case s.hupOnly:
		if events&gone != 0 {
			s.end(carried{})
		}
	case events&(unix.EPOLLIN|gone) != 0:
		s.moving = true // so fd stays open: carry, which waits, has to end first
		s.mu.Unlock()
		why, more := s.move(r)
		s.mu.Lock()
		s.moving = false
		switch {
		case !more:
			s.end(why)
		case s.cut:
			s.end(carried{read: os.ErrDeadlineExceeded})
		}
	}
	s.arm()
	return reading && !s.reading || writing && !s.writing
}

// move reads once and sends what it got. more says that carry need not be
// woken.
func (s *socket) move(r *reactor) (why carried, more bool) {
	limit := s.s.TryCredit()
	if limit == 0 {
		return carried{}, false
	}
	if s.bulk && !s.copies && limit >= spliceFrom {
		if why, more, ok := s.splice(r, limit); ok {
			return why, more
		}
	}
	b := link.NewBuffer()
	n, err := s.receive(b.Payload()[:limit])
	if n <= 0 || err != nil {
		b.Free()
		return unread(err)
	}
	s.bulk = n >= spliceFrom && !s.rights && s.s.CanSplice()
	if err := s.s.Send(b, n); err != nil {
		return carried{send: err}, false
	}
	return carried{}, true
}

func unread(err error) (why carried, more bool) {
	switch err {
	case unix.EAGAIN, unix.EINTR:
		return carried{}, true
	case nil:
		err = io.EOF
	}
	return carried{read: err}, false
}

func (s *socket) receive(p []byte) (int, error) {
	if s.rights {
		return recvmsg(s.fd, p)
	}
	return unix.Read(s.fd, p)
}

// splice moves by way of the private pipe, since only that tells how many bytes
// the frame has before the frame begins. ok is false if nothing was done.
func (s *socket) splice(r *reactor, limit int) (why carried, more, ok bool) {
	p := r.pipe()
	if p.size == 0 {
		return carried{}, false, false
	}
	n, err := unix.Splice(s.fd, nil, p.w, nil, limit, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	switch {
	case err == unix.EINVAL || err == unix.ENOSYS || err == unix.EOPNOTSUPP:
		s.copies = true
		return carried{}, false, false
	case n <= 0 || err != nil:
		why, more = unread(err)
		return why, more, true
	}
	s.bulk = n >= spliceFrom/4
	if err := s.s.SendFrom(p.r, int(n)); err != nil {
		p.close() // the rest of what it holds has nowhere to go
		return carried{send: err}, false, true
	}
	return carried{}, true, true
}

var oobs = sync.Pool{New: func() any {
	b := make([]byte, unix.CmsgSpace(4*253)) // SCM_MAX_FD, include/net/scm.h
	return &b
}}

// recvmsg reads, and refuses descriptors: dropped in silence they would leave
// a program waiting for the answer of a peer that got only half a message.
func recvmsg(fd int, p []byte) (int, error) {
	oob := oobs.Get().(*[]byte)
	defer oobs.Put(oob)
	n, oobn, flags, _, err := unix.Recvmsg(fd, p, *oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil || oobn == 0 && flags&unix.MSG_CTRUNC == 0 {
		return n, err
	}
	msgs, err := unix.ParseSocketControlMessage((*oob)[:oobn])
	if err != nil {
		return 0, os.NewSyscallError("control message", err)
	}
	found := flags&unix.MSG_CTRUNC != 0
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue // credentials and the like
		}
		found = true
		for _, f := range fds {
			_ = unix.Close(f)
		}
	}
	if found {
		return 0, errRights
	}
	return n, nil
}

// tryWrite writes what the socket takes now.
func (s *socket) tryWrite(p []byte) (int, error) {
	return s.tried(func(fd int) (int, error) {
		return unix.SendmsgN(fd, p, nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	})
}

// trySplice is tryWrite for what a pipe holds. The signal that comes with EPIPE
// does nothing in a Go program (package os/signal).
func (s *socket) trySplice(pipe, n int) (int, error) {
	n, err := s.tried(func(fd int) (int, error) {
		m, err := unix.Splice(pipe, nil, fd, nil, n, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		return int(m), err
	})
	switch err {
	case unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP:
		return 0, nil // by tryWrite, then
	}
	return n, err
}

func (s *socket) tried(write func(fd int) (int, error)) (int, error) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	for {
		switch {
		case s.fd < 0:
			return 0, net.ErrClosed
		case s.cutW:
			return 0, os.ErrDeadlineExceeded
		}
		n, err := write(s.fd)
		switch err {
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, nil
		default:
			return max(n, 0), err
		}
	}
}

// write writes all of p, by one goroutine at a time.
func (s *socket) write(p []byte) (done int, err error) {
	for {
		n, err := s.tryWrite(p[done:])
		done += n
		if err != nil || done == len(p) {
			return done, err
		}
		s.mu.Lock()
		if s.room == nil {
			s.room = make(chan struct{}, 1)
		}
		wait := s.fd >= 0 && !s.cutRoom && !s.broken
		if wait {
			s.writing = true
			s.arm()
		}
		broken := s.broken
		s.mu.Unlock()
		if wait {
			<-s.room
		}
		if broken {
			return done, errno.ENOMEM
		}
	}
}

// shutdown is shutdown(2); how is a constant of package unix.
func (s *socket) shutdown(how int) error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if s.fd < 0 {
		return net.ErrClosed
	}
	return unix.Shutdown(s.fd, how)
}

func (s *socket) closeRead() error  { return s.shutdown(unix.SHUT_RD) }
func (s *socket) closeWrite() error { return s.shutdown(unix.SHUT_WR) }

// hangup tells whether the program has closed the socket, or shut both
// directions down.
func (s *socket) hangup() bool {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if s.fd < 0 {
		return true
	}
	p := []unix.PollFd{{Fd: int32(s.fd)}}
	for {
		_, err := unix.Poll(p, 0)
		if err != unix.EINTR {
			return err == nil && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		}
	}
}
