package relay

import (
	"io"
	"os"
	"sync"

	"drvsock/internal/link"
	"drvsock/internal/wait"
	"drvsock/internal/wire"

	"golang.org/x/sys/unix"
)

// spliceFrom is what one read must bring for the next to be a splice.
const spliceFrom = 32 << 10

// atOnce is how much one splice may take out of a socket, where for bulkOnly moves nobody
// had a small message, which would wait for as much of each of the others: about what a
// program's SO_SNDBUF lets it write ahead by default, net.core.wmem_default of 208 KiB
// with what the kernel counts on top of it.
const (
	atOnce   = 3 * wire.MaxData
	bulkOnly = 16
)

// small is the largest message of a conversation that the link's reader serves.
const small = 4 << 10

// approach has the link's reader, which calls it, serve the socket from now on.
// That is done before the program gets a question, so that the answer finds it
// so.
func (s *socket) approach(n int) {
	if !s.r.near || n > small || s.s.Link().Busy() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.near || !s.reading || s.hupOnly || s.writing || s.fd < 0:
	case s.moving: // it answers already; ready goes on from here
		s.near = true
	case !s.large:
		s.near = true
		s.arm()
	}
}

// ready is called by the reactor's thread, or if near by the link's reader. It
// tells whether a goroutine was woken.
func (s *socket) ready(events uint32, near bool) (woke bool) {
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
	case !s.reading || s.moving || s.isNear != near: // the last is an event of before
	case s.hupOnly:
		// The event may be that of a socket closed since, which had the same
		// number.
		if events&gone != 0 && hungUp(s.fd) {
			s.end(carried{})
		}
	case events&(unix.EPOLLIN|gone) != 0:
		s.moving, s.fed = true, false // so fd stays open: carry, which waits, has to end first
		s.mu.Unlock()
		move := s.move
		if near {
			move = s.moveNear
		}
		why, more := move()
		s.mu.Lock()
		s.moved(why)
		if s.large || near && s.s.Link().Busy() {
			s.near = false
		}
		if !near {
			s.r.moved(s.large)
		}
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
func (s *socket) move() (why carried, more bool) {
	limit, starved := s.s.TryCreditOr(s.credited)
	if limit == 0 {
		return carried{starved: starved}, starved
	}
	if s.bulk && !s.copies && limit >= spliceFrom {
		if why, more, ok := s.splice(s.r, limit); ok {
			return why, more
		}
	}
	b, n, err := s.fill(limit)
	if b == nil {
		return unread(err)
	}
	if err := s.s.Send(b, n); err != nil {
		return carried{send: err}, false
	}
	return carried{}, true
}

// moveNear is move without waiting.
func (s *socket) moveNear() (why carried, more bool) {
	limit, starved := s.s.TryCreditOr(s.credited)
	if limit == 0 {
		return carried{starved: starved}, starved
	}
	b, n, err := s.fill(limit)
	if b == nil {
		return unread(err)
	}
	switch done, err := s.s.TrySend(b, n); {
	case err != nil:
		return carried{send: err}, false
	case !done:
		return carried{b: b, n: n}, false
	}
	return carried{}, true
}

// fill reads once into a new buffer; nil if nothing was read.
func (s *socket) fill(limit int) (*link.Buffer, int, error) {
	b := link.NewBuffer()
	n, err := s.receive(b.Payload()[:min(limit, wire.MaxData)])
	if n <= 0 || err != nil {
		b.Free()
		return nil, 0, err
	}
	s.large = n > small
	s.bulk = n >= spliceFrom && !s.rights && s.s.CanSplice()
	return b, n, nil
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
	return wait.Read(s.fd, p)
}

// splice moves by way of the private pipe, since only that tells how many bytes
// a frame has before it begins. ok is false if nothing was done.
func (s *socket) splice(r *reactor, limit int) (why carried, more, ok bool) {
	p := r.pipe()
	if p.size == 0 {
		return carried{}, false, false
	}
	if limit = min(limit, atOnce); r.bulk < bulkOnly {
		limit = min(limit, wire.MaxData)
	}
	n, err := wait.Splice(s.fd, p.w, limit)
	switch {
	case err == unix.EINVAL || err == unix.ENOSYS || err == unix.EOPNOTSUPP:
		s.copies = true
		return carried{}, false, false
	case n == 0 || err != nil:
		// Whether nothing is there or this is the end, read(2) has the last word: a TCP
		// socket gives nothing to splice(2) before a byte that was sent by MSG_OOB has
		// been read, and takes the end of what follows for the end of all.
		s.bulk = false
		return carried{}, false, false
	}
	s.large = n > small
	s.bulk = n >= spliceFrom/4
	for n > 0 {
		m := min(n, wire.MaxData)
		if err := s.s.SendFrom(p.r, m); err != nil {
			p.close() // the rest of what it holds has nowhere to go
			return carried{send: err}, false, true
		}
		n -= m
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
