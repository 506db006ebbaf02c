package relay

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"

	"drvsock/internal/afunix"
	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/wait"

	"golang.org/x/sys/unix"
)

// sendBuffer is what is asked for towards the program; net.core.wmem_max bounds
// it, by default to 208 KiB, which count twice (socket(7)). One stream is a
// quarter faster and more with it than with the default, which is half of that.
const sendBuffer = 1 << 20

var errRights = errno.Errorf(errno.EPERM, errno.LayerLink, "file descriptors cannot be sent to the other side")

// A socket is the socket's side of a joint. It owns a descriptor, which the
// runtime's poller doesn't know. While carry waits, the reactor's thread does
// the reading. While small messages go both ways, the link's reader does: then
// the socket is near.
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
	armed   uint32 // events that the reactor, or the link's reader, waits for
	near    bool   // the link's reader is to serve it
	isNear  bool   // and has it armed
	cut     bool   // reading is over, see interrupt
	cutRoom bool   // write doesn't wait any more
	reading bool   // carry or waitHangup waits
	hupOnly bool   // it is waitHangup
	moving  bool   // a thread is moving bytes, without mu
	writing bool   // write waits
	starved bool   // nothing may be sent before credited is called
	fed     bool   // it was while moving
	broken  bool   // no waiting any more, memory is short
	outcome carried
	read    chan struct{} // ends the waiting of carry and waitHangup
	room    chan struct{} // ends the waiting of write; made when needed

	begun bool // carry was called

	// The rest is the moving thread's.
	large  bool // the last read brought more than a small message
	bulk   bool // it brought much
	copies bool // splice(2) does not work here
}

// carried says why carry ended: an error of reading, or of sending, or none if
// nothing may be sent any more, or the link's reader has read n bytes into b
// and could not send them without waiting.
type carried struct {
	read, send error
	b          *link.Buffer
	n          int
	starved    bool // no end: the stream has no credit, and will call credited
}

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
			s.rights = !passRights || !afunix.RefuseRights(int(fd))
		}
		inLine(int(fd))
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

// close closes the socket; no carry or waitHangup waits any more.
func (s *socket) close() {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return
	}
	if s.r != nil {
		s.reading = false
		// What is queued may still wait for room, if the program closed after
		// it had ended its own direction and this was seen before the event.
		s.endWrite()
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
		switch {
		case s.hupOnly:
			want = unix.EPOLLRDHUP // some bit, since 0 means none here
		case !s.starved:
			want = unix.EPOLLIN
		}
	}
	if s.writing {
		want |= unix.EPOLLOUT
	}
	if want != 0 && want != unix.EPOLLIN {
		s.near = false
	}
	if want == s.armed && (want == 0 || s.near == s.isNear) {
		return
	}
	if s.armed != 0 && (want == 0 || s.near != s.isNear) {
		_ = s.control(unix.EPOLL_CTL_DEL, 0) // fails where the link has ended
		if s.armed = 0; want == 0 {
			return
		}
	}
	s.isNear = s.near
	op := unix.EPOLL_CTL_MOD
	if s.armed == 0 {
		op = unix.EPOLL_CTL_ADD
	}
	events := want
	if s.hupOnly {
		events &^= unix.EPOLLRDHUP // EPOLLHUP comes unasked
	}
	err := s.control(op, events)
	if err != nil && s.isNear {
		s.near, s.isNear = false, false
		err = s.control(op, events) // it was EPOLL_CTL_ADD
	}
	if err != nil {
		// Out of memory or of fs.epoll.max_user_watches. Whoever waits ends.
		s.armed = 0
		s.broken = true
		s.end(carried{read: errno.ENOMEM})
		s.endWrite()
		return
	}
	s.armed = want
}

// control is epoll_ctl(2) on where the socket is armed.
func (s *socket) control(op int, events uint32) error {
	if s.isNear {
		return s.s.Link().Control(op, s.fd, events)
	}
	return unix.EpollCtl(s.r.ep, op, s.fd, &unix.EpollEvent{Events: events, Fd: int32(s.fd)})
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
func (s *socket) carry(int) carried {
	if !s.begun {
		s.begun = true
		if why, more := s.first(); !more {
			return why
		}
	}
	why := s.wait(false)
	if why.b != nil {
		return carried{send: s.s.Send(why.b, why.n)}
	}
	return why
}

// first moves what the program has written by now: a server that speaks first
// often has, and then no other thread need be woken for it.
func (s *socket) first() (why carried, more bool) {
	s.mu.Lock()
	if s.cut || s.fd < 0 {
		s.mu.Unlock()
		return carried{read: os.ErrDeadlineExceeded}, false
	}
	s.moving, s.fed = true, false // so fd stays open
	s.mu.Unlock()
	why, more = s.move()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moved(why)
	if more && s.cut {
		return carried{read: os.ErrDeadlineExceeded}, false
	}
	return why, more
}

// moved ends a move. Called with mu.
func (s *socket) moved(why carried) {
	s.moving = false
	s.starved = why.starved && !s.fed
}

// credited has reading go on. The link's reader calls it.
func (s *socket) credited() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starved, s.fed = false, true
	if !s.moving && s.fd >= 0 {
		s.arm()
	}
}

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

// tryWrite writes what the socket takes now. The link's reader calls it.
func (s *socket) tryWrite(p []byte) (int, error) {
	s.approach(len(p))
	return s.put(p)
}

func (s *socket) put(p []byte) (int, error) {
	return s.tried(func(fd int) (int, error) {
		return wait.Send(fd, p)
	})
}

// trySplice is tryWrite for what a pipe holds. The signal that comes with EPIPE
// does nothing in a Go program (package os/signal).
func (s *socket) trySplice(pipe, n int) (int, error) {
	n, err := s.tried(func(fd int) (int, error) {
		return wait.Splice(pipe, fd, n)
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
		n, err := s.put(p[done:])
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

// abort makes close a reset where the kernel has one to send: on TCP, by
// SO_LINGER (socket(7)). AF_UNIX takes the option and has no use for it.
func (s *socket) abort() {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if s.fd >= 0 {
		_ = unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
}

// unplant takes a byte out of the receive queue, if one is there.
func (s *socket) unplant() {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if s.fd >= 0 {
		var b [1]byte
		_, _, _ = unix.Recvfrom(s.fd, b[:], unix.MSG_DONTWAIT)
	}
}

func (s *socket) closeWrite() error { return s.shutdown(unix.SHUT_WR) }

// unreadMark is what closeRead leaves in the receive queue, so that a close with
// bytes that were not read still is one: a byte of the program's, and one of Plant's.
const unreadMark = 2

// closeRead shuts reading down.
func (s *socket) closeRead() error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if s.fd < 0 {
		return net.ErrClosed
	}
	return shutRead(s.fd)
}

// shutRead shuts reading down, after which the program's writes fail. A program that
// polls for room first would not learn of it, as a full queue stays full
// (unix_writable of net/unix/af_unix.c); so the queue is emptied.
func shutRead(fd int) error {
	err := unix.Shutdown(fd, unix.SHUT_RD)
	n, ierr := unix.IoctlGetInt(fd, unix.SIOCINQ)
	if ierr != nil || n <= unreadMark {
		return err
	}
	b := link.NewBuffer()
	defer b.Free()
	for n -= unreadMark; n > 0; {
		// What it passes along with them is closed by the kernel.
		m, rerr := wait.Read(fd, b.Payload()[:min(n, len(b.Payload()))])
		if m <= 0 || rerr != nil {
			break
		}
		n -= m
	}
	return err
}

// inLine has bytes that a program sends by MSG_OOB (Linux 5.15) come where they were
// sent: out of the line they would be lost here.
func inLine(fd int) { _ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) }

// hangup tells whether the program has closed the socket, or shut both
// directions down.
func (s *socket) hangup() bool {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if s.fd < 0 {
		return true
	}
	return hungUp(s.fd)
}

func hungUp(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd)}}
	for {
		_, err := unix.Poll(p, 0)
		if err != unix.EINTR {
			return err == nil && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		}
	}
}
