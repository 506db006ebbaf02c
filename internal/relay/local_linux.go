package relay

import (
	"io"
	"os"
	"syscall"

	"drvsock/internal/afunix"

	"golang.org/x/sys/unix"
)

// partySocket is what the system tells of an end beyond net.Conn. raw is nil for a
// Conn without a descriptor, of which nothing more is known.
type partySocket struct {
	conn   Conn
	raw    syscall.RawConn
	rights bool // descriptors may arrive, so look for them
}

func newParty(c Conn) *party {
	e := &party{conn: c, partySocket: partySocket{conn: c}}
	if sc, ok := c.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			e.raw = raw
			_ = raw.Control(func(fd uintptr) {
				inLine(int(fd))
				domain, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN)
				e.rights = err == nil && domain == unix.AF_UNIX && !afunix.RefuseRights(int(fd))
			})
		}
	}
	return e
}

// read waits for bytes, and takes a buffer only when there are some.
func (e *partySocket) read() (*piece, error) {
	if e.raw == nil {
		return readConn(e.conn)
	}
	var p *piece
	var n int
	var err error
	rerr := e.raw.Read(func(fd uintptr) bool {
		p = pieces.Get().(*piece)
		for {
			if e.rights {
				n, err = recvmsg(int(fd), p.b)
			} else {
				n, err = unix.Read(int(fd), p.b)
			}
			if err != unix.EINTR {
				break
			}
		}
		if err == unix.EAGAIN {
			p.free()
			return false
		}
		return true
	})
	switch {
	case rerr != nil: // nothing was read
		return nil, rerr
	case n > 0:
		p.n = n
		return p, nil
	}
	p.free()
	if err == nil {
		err = io.EOF
	} else {
		err = os.NewSyscallError("read", err)
	}
	return nil, err
}

// hangup tells whether the program has closed the socket, or shut both
// directions down.
func (e *partySocket) hangup() bool {
	gone := false
	if e.raw != nil && e.raw.Control(func(fd uintptr) { gone = hungUp(int(fd)) }) != nil {
		return true
	}
	return gone
}

// waitHangup waits for hangup, true, or until over and a read deadline passes.
func (e *partySocket) waitHangup(over func() bool) bool {
	if e.raw == nil {
		return false
	}
	gone := false
	_ = e.raw.Read(func(fd uintptr) bool {
		gone = hungUp(int(fd)) // comes as an edge, which wakes readers
		return gone || over()
	})
	return gone
}

// unread tells whether bytes wait that nobody has read.
func (e *partySocket) unread() bool {
	n := 0
	if e.raw != nil {
		_ = e.raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
	return n > 0
}

// closeRead makes the program's writes fail, and our reads end.
func (e *partySocket) closeRead() {
	if e.raw != nil {
		_ = e.raw.Control(func(fd uintptr) { _ = shutRead(int(fd)) })
	}
}
