package afunix

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Conn is a connected stream socket for somebody who takes its descriptor, as
// package relay does. It is no net.UnixConn because the runtime's poller, out of which
// such a socket is taken at once, wakes a thread for each that it is given: connect and
// the first byte took an eighth longer in the supervisor. Nothing but the descriptor is
// to be had of it: Read, Write and the deadlines have errors.ErrUnsupported.
type Conn struct {
	mu sync.Mutex
	fd int // -1 when closed
}

// NewConn takes over fd, which must not block.
func NewConn(fd int) *Conn { return &Conn{fd: fd} }

// Close closes the descriptor. Later calls have os.ErrClosed.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return os.ErrClosed
	}
	fd := c.fd
	c.fd = -1
	return os.NewSyscallError("close", unix.Close(fd))
}

// CloseWrite shuts down the writing side.
func (c *Conn) CloseWrite() error {
	return c.control(func(fd int) error { return os.NewSyscallError("shutdown", unix.Shutdown(fd, unix.SHUT_WR)) })
}

func (c *Conn) control(fn func(fd int) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return os.ErrClosed
	}
	return fn(c.fd)
}

// SyscallConn gives access to the descriptor, by Control alone.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return rawConn{c}, nil }

type rawConn struct{ c *Conn }

func (r rawConn) Control(fn func(fd uintptr)) error {
	return r.c.control(func(fd int) error {
		fn(uintptr(fd))
		return nil
	})
}
func (rawConn) Read(func(uintptr) bool) error  { return errors.ErrUnsupported }
func (rawConn) Write(func(uintptr) bool) error { return errors.ErrUnsupported }

// Read has errors.ErrUnsupported.
func (*Conn) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// Write has errors.ErrUnsupported.
func (*Conn) Write([]byte) (int, error) { return 0, errors.ErrUnsupported }

// SetDeadline has errors.ErrUnsupported.
func (*Conn) SetDeadline(time.Time) error { return errors.ErrUnsupported }

// SetReadDeadline has errors.ErrUnsupported.
func (*Conn) SetReadDeadline(time.Time) error { return errors.ErrUnsupported }

// SetWriteDeadline has errors.ErrUnsupported.
func (*Conn) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// LocalAddr has no name, whatever the socket's is.
func (*Conn) LocalAddr() net.Addr { return unnamed }

// RemoteAddr has no name, whatever the peer's is.
func (*Conn) RemoteAddr() net.Addr { return unnamed }

var unnamed = &net.UnixAddr{Net: "unix"}
