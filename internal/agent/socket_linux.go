package agent

import (
	"context"
	"fmt"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// socket is a bound socket. It listens after listen, and is a connection's
// after connect, from when on only its file is the handle's.
type socket struct {
	host *host
	file string   // absolute path of the file
	id   identity // of the file that bind made

	mu        sync.Mutex
	l         *net.UnixListener // owns the descriptor, listening or not; never unlinks
	listening bool
	busy      bool // a connect is under way
	connected bool
}

// listen makes the socket listen, or changes its backlog.
func (s *socket) listen(backlog int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy || s.connected {
		return fmt.Errorf("listen %s: %w", s.file, unix.EINVAL) // as unix_listen
	}
	err := control(s.l, func(fd int) error { return unix.Listen(fd, backlog) })
	if err != nil {
		return fmt.Errorf("listen %s: %w", s.file, err)
	}
	s.listening = true
	return nil
}

// accept waits for a connection; peer is the name that its other end is bound
// to, empty for none. Only after listen. close ends it with net.ErrClosed.
func (s *socket) accept() (conn *net.UnixConn, peer []byte, err error) {
	conn, err = s.l.AcceptUnix()
	if err != nil {
		return nil, nil, err
	}
	err = control(conn, func(fd int) error {
		peer, err = peerName(fd)
		return err
	})
	if err != nil {
		_ = conn.Close()
		return nil, nil, fmt.Errorf("name of the peer: %w", err)
	}
	return conn, peer, nil
}

// connect connects the socket itself, so that the peer sees its name.
func (s *socket) connect(ctx context.Context, path []byte, opt connectOptions) (*net.UnixConn, error) {
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
		err = control(s.l, func(own int) (err error) {
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
func (s *socket) close() { _ = s.l.Close() }

// at reports whether path leads to the file that bind made.
func (s *socket) at(h *host, path []byte) bool {
	dir, name, err := h.resolve(path)
	return err == nil && dir+"/"+name == s.file && s.owns()
}

// owns reports whether the file is the one that bind made.
func (s *socket) owns() bool {
	id, err := identify(unix.AT_FDCWD, s.file)
	return err == nil && s.id.made() && id == s.id
}

// removeOwn removes the file if it is the one that bind made.
func (s *socket) removeOwn() error {
	if !s.owns() {
		return nil
	}
	if err := unix.Unlink(s.file); err != nil && err != unix.ENOENT {
		return fmt.Errorf("unlink %s: %w", s.file, err)
	}
	return nil
}

// identity tells a file from a later one of the same name. The time of birth
// guards against an inode number used again after the socket was closed; file
// systems without it have zero.
type identity struct {
	major, minor uint32
	inode        uint64
	birth        unix.StatxTimestamp
}

func (id identity) made() bool { return id != identity{} }

func identify(dir int, name string) (identity, error) {
	var st unix.Statx_t
	err := unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_TYPE|unix.STATX_BTIME, &st)
	if err != nil {
		return identity{}, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return identity{}, unix.ENOTSOCK
	}
	id := identity{major: st.Dev_major, minor: st.Dev_minor, inode: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.birth = st.Btime
	}
	return id, nil
}
