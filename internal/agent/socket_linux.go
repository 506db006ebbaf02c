package agent

import (
	"context"
	"fmt"
	"net"
	"sync"

	"golang.org/x/sys/unix"

	"drvsock/internal/afunix"
	"drvsock/internal/relay"
)

// unixSocket is a bound socket. It listens after listen, and is a connection's
// after connect, from when on only its file is the handle's.
type unixSocket struct {
	host *host
	file string          // absolute path of the file
	id   afunix.Identity // of the file that bind made

	mu        sync.Mutex
	l         *net.UnixListener // owns the descriptor, listening or not; never unlinks
	listening bool
	busy      bool // a connect is under way
	connected bool
}

// listen makes the socket listen, or changes its backlog.
func (s *unixSocket) listen(backlog int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy || s.connected {
		return fmt.Errorf("listen %s: %w", s.file, unix.EINVAL) // as unix_listen
	}
	err := afunix.Control(s.l, func(fd int) error { return unix.Listen(fd, backlog) })
	if err != nil {
		return fmt.Errorf("listen %s: %w", s.file, err)
	}
	s.listening = true
	return nil
}

// accept waits for a connection; peer is the name that its other end is bound
// to, empty for none. Only after listen. close ends it with net.ErrClosed.
func (s *unixSocket) accept() (conn *net.UnixConn, peer []byte, err error) {
	conn, err = s.l.AcceptUnix()
	if err != nil {
		return nil, nil, err
	}
	err = afunix.Control(conn, func(fd int) error {
		peer, err = afunix.PeerName(fd)
		return err
	})
	if err != nil {
		_ = conn.Close()
		return nil, nil, fmt.Errorf("name of the peer: %w", err)
	}
	return conn, peer, nil
}

// connect connects the socket itself, so that the peer sees its name.
func (s *unixSocket) connect(ctx context.Context, path []byte, opt afunix.Wait) (relay.Conn, error) {
	s.mu.Lock()
	var err error
	fd := -1
	switch {
	case s.connected:
		err = unix.EISCONN
	case s.listening:
		err = unix.EINVAL
	case s.busy:
		err = unix.EALREADY
	default:
		err = afunix.Control(s.l, func(own int) (err error) {
			fd, err = unix.FcntlInt(uintptr(own), unix.F_DUPFD_CLOEXEC, 0)
			return err
		})
	}
	s.busy = s.busy || err == nil
	s.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("connect from %s: %w", s.file, err)
	}
	conn, err := s.host.connect(ctx, fd, path, opt)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = false
	if err == nil {
		s.connected = true
		_ = s.l.Close() // the connection's end must be the socket's
	}
	return conn, err
}

// close closes the socket and leaves its file. It may be called twice.
func (s *unixSocket) close() { _ = s.l.Close() }

// at reports whether path leads to the file that bind made.
func (s *unixSocket) at(h *host, path []byte) bool {
	dir, name, err := h.resolve(path)
	return err == nil && dir+"/"+name == s.file && s.owns()
}

// owns reports whether the file is the one that bind made.
func (s *unixSocket) owns() bool {
	id, err := afunix.Identify(unix.AT_FDCWD, s.file)
	return err == nil && s.id.Known() && id == s.id
}

// removeOwn removes the file if it is the one that bind made.
func (s *unixSocket) removeOwn() error {
	if !s.owns() {
		return nil
	}
	if err := unix.Unlink(s.file); err != nil && err != unix.ENOENT {
		return fmt.Errorf("unlink %s: %w", s.file, err)
	}
	return nil
}
