package relay

import (
	"errors"
	"io"
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

var errRights = errno.Errorf(errno.EPERM, errno.LayerLink, "file descriptors cannot be sent to the other side")

// A socket is the socket's side of a joint. One goroutine reads; writing is
// the stream's.
type socket struct {
	raw    syscall.RawConn
	rights bool // descriptors may arrive, so look for them

	// of the read under way
	limit  int
	buf    *link.Buffer
	n      int
	err    error
	readFn func(fd uintptr) bool

	// of the write under way
	p       []byte
	wn      int
	werr    error
	writeFn func(fd uintptr) bool
}

func (s *socket) init(conn Conn, passRights bool) error {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return errno.Errorf(errno.ENOTSOCK, errno.LayerLink, "connection is no socket")
	}
	var err error
	if s.raw, err = sc.SyscallConn(); err != nil {
		return err
	}
	cerr := s.raw.Control(func(fd uintptr) {
		domain, derr := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN)
		if derr != nil || domain != unix.AF_UNIX {
			err = derr
			return
		}
		s.rights = !passRights || unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, soPassRights, 0) != nil
	})
	s.readFn, s.writeFn = s.tryRead, s.write
	return errors.Join(err, cerr)
}

// read waits for bytes, without a buffer while there are none, and reads at
// most limit. It returns n > 0 and a buffer that the caller owns, or an error.
func (s *socket) read(limit int) (*link.Buffer, int, error) {
	s.limit = limit
	s.n, s.err = 0, nil
	if err := s.raw.Read(s.readFn); err != nil {
		return nil, 0, err
	}
	b := s.buf
	s.buf = nil
	return b, s.n, s.err
}

func (s *socket) tryRead(fd uintptr) bool {
	b := link.NewBuffer()
	for {
		if s.rights {
			s.n, s.err = recvmsg(int(fd), b.Payload()[:s.limit])
		} else {
			s.n, s.err = unix.Read(int(fd), b.Payload()[:s.limit])
		}
		if s.err != unix.EINTR {
			break
		}
	}
	if s.n > 0 && s.err == nil {
		s.buf = b
		return true
	}
	b.Free()
	if s.err == unix.EAGAIN {
		return false
	}
	if s.err == nil {
		s.err = io.EOF
	}
	s.n = 0
	return true
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

func (s *socket) tryWrite(p []byte) (int, error) {
	s.p, s.wn, s.werr = p, 0, nil
	err := s.raw.Write(s.writeFn)
	s.p = nil
	if err == nil {
		err = s.werr
	}
	return s.wn, err
}

func (s *socket) write(fd uintptr) bool {
	for {
		n, err := unix.SendmsgN(int(fd), s.p, nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		switch err {
		case nil:
			s.wn = n
		case unix.EINTR:
			continue
		case unix.EAGAIN:
		default:
			s.werr = err
		}
		return true
	}
}

// hangup tells whether the program has closed the socket, or shut both
// directions down.
func (s *socket) hangup() bool {
	var hup bool
	if err := s.raw.Control(func(fd uintptr) { hup = polledHangup(fd) }); err != nil {
		return true // closed here
	}
	return hup
}

func polledHangup(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd)}}
	for {
		_, err := unix.Poll(p, 0)
		if err != unix.EINTR {
			return err == nil && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		}
	}
}

// waitHangup waits until the program has closed the socket, true, or over is
// closed. The runtime's poller is edge-triggered, and the kernel makes an edge
// of a hangup also after an end of stream.
func (s *socket) waitHangup(over <-chan struct{}) bool {
	err := s.raw.Read(polledHangup)
	select {
	case <-over:
		return false
	default:
	}
	if err != nil {
		<-over
		return false
	}
	return true
}
