package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/windows"

	"drvsock/internal/errno"
)

// socket is a bound socket. It begins as a bare handle, since package net has
// no socket that is bound and doesn't listen, and becomes package net's with
// listen or connect.
type socket struct {
	host *host
	file string // absolute path of the file

	id atomic.Pointer[identity] // of the file that bind made; nil if unknown

	mu        sync.Mutex
	raw       windows.Handle    // 0 once it went over to package net, or closed
	l         *net.UnixListener // after listen; never unlinks
	busy      bool              // a connect is under way
	connected bool
	closed    bool
}

// newSocket returns a stream socket that no child inherits.
func newSocket() (windows.Handle, error) {
	h, err := windows.WSASocket(windows.AF_UNIX, windows.SOCK_STREAM, 0, nil, 0,
		windows.WSA_FLAG_OVERLAPPED|windows.WSA_FLAG_NO_HANDLE_INHERIT)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	return h, nil
}

// listen makes the socket listen, or changes its backlog.
func (s *socket) listen(backlog int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy || s.connected || s.closed {
		return errno.Errorf(errno.EINVAL, errno.LayerAgent, "%s is connected or closed", s.file)
	}
	if s.l != nil {
		return s.control(func(h windows.Handle) error { return windows.Listen(h, backlog) })
	}
	err := s.adoptable()
	if err == nil {
		if err := windows.Listen(s.raw, backlog); err != nil {
			return fmt.Errorf("listen %s: %w", s.file, err)
		}
		var l net.Listener
		f := os.NewFile(uintptr(s.raw), s.file)
		l, err = net.FileListener(f) // a duplicate
		_ = f.Close()
		s.raw = 0
		if err == nil {
			s.l = l.(*net.UnixListener)
			return nil
		}
	}
	return s.listenAnew(err)
}

// listenAnew replaces a socket that package net cannot take over by a new one
// at the same path. Between the two the path is free for others, so it is the
// second best way.
func (s *socket) listenAnew(reason error) error {
	s.host.log.Warn("bound socket is made anew to listen", "path", s.file, "reason", reason)
	s.giveUp()
	err := withShort(s.file, func(name string) error {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		if err == nil {
			l.SetUnlinkOnClose(false)
			s.l = l
		}
		return err
	})
	if err != nil {
		return refused(errno.OpBind, s.file, err)
	}
	s.know()
	return nil
}

// know notes the identity of the file, which was made just now.
func (s *socket) know() {
	id, err := identify(s.file)
	if err != nil {
		s.host.log.Warn("socket file without identity stays at the end", "error", err)
		s.id.Store(nil)
		return
	}
	s.id.Store(&id)
}

// giveUp closes the bare handle and removes its file.
func (s *socket) giveUp() {
	if err := s.removeOwn(); err != nil {
		s.host.log.Warn("socket file stays", "error", err)
	}
	if s.raw != 0 {
		_ = windows.Closesocket(s.raw)
		s.raw = 0
	}
}

// adoptable says whether the system can duplicate the socket, as package net
// does to take it over. A stand-in for Winsock may not.
func (s *socket) adoptable() error {
	if s.raw == 0 {
		return errno.Errorf(errno.EBADF, errno.LayerAgent, "%s has lost its socket", s.file)
	}
	var info windows.WSAProtocolInfo
	if err := windows.WSADuplicateSocket(s.raw, windows.GetCurrentProcessId(), &info); err != nil {
		return fmt.Errorf("duplicate socket: %w", err)
	}
	// The information stands for a descriptor, which has to be made and closed.
	dup, err := windows.WSASocket(-1, -1, -1, &info, 0, windows.WSA_FLAG_OVERLAPPED|windows.WSA_FLAG_NO_HANDLE_INHERIT)
	if err != nil {
		return fmt.Errorf("duplicate socket: %w", err)
	}
	_ = windows.Closesocket(dup)
	return nil
}

// accept waits for a connection; peer is the name that its other end is bound
// to, empty for none. Only after listen. close ends it with net.ErrClosed.
func (s *socket) accept() (conn *net.UnixConn, peer []byte, err error) {
	s.mu.Lock()
	l := s.l
	s.mu.Unlock()
	conn, err = l.AcceptUnix()
	if err != nil {
		return nil, nil, err
	}
	// Package net shows an unnamed peer as "@" (or nothing); Windows paths
	// don't begin so.
	if a, ok := conn.RemoteAddr().(*net.UnixAddr); ok && a != nil && !strings.HasPrefix(a.Name, "@") {
		name, _, _ := strings.Cut(a.Name, "\x00")
		peer = []byte(name)
	}
	return conn, peer, nil
}

// connect connects the socket itself, so that the peer sees its name.
func (s *socket) connect(ctx context.Context, path []byte, _ connectOptions) (*net.UnixConn, error) {
	file, err := checkWindowsPath(path)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	switch {
	case s.connected:
		err = errno.Errorf(errno.EISCONN, errno.LayerAgent, "%s is connected", s.file)
	case s.l != nil:
		err = errno.Errorf(errno.EINVAL, errno.LayerAgent, "%s listens", s.file)
	case s.busy:
		err = errno.Errorf(errno.EALREADY, errno.LayerAgent, "%s is connecting", s.file)
	case s.closed || s.raw == 0:
		err = errno.Errorf(errno.EBADF, errno.LayerAgent, "%s is closed", s.file)
	default:
		s.busy = true
	}
	raw := s.raw
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	var conn *net.UnixConn
	go func() {
		var err error
		conn, err = s.connectRaw(ctx, raw, file)
		done <- err
	}()
	select {
	case err := <-done:
		return conn, err
	case <-ctx.Done():
		go func() {
			if <-done == nil {
				_ = conn.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// connectRaw is connect's part that the system may keep waiting. It ends busy.
func (s *socket) connectRaw(ctx context.Context, raw windows.Handle, file string) (*net.UnixConn, error) {
	reason := s.adoptable()
	if reason == nil {
		err := withShort(file, func(name string) error {
			return windows.Connect(raw, &windows.SockaddrUnix{Name: name})
		})
		if err != nil {
			s.mu.Lock()
			s.busy = false
			s.mu.Unlock()
			return nil, refused(errno.OpConnect, file, fmt.Errorf("connect %s: %w", file, err))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = false
	if s.closed {
		return nil, net.ErrClosed
	}
	if reason == nil {
		f := os.NewFile(uintptr(raw), s.file)
		c, err := net.FileConn(f) // a duplicate
		_ = f.Close()
		s.raw, s.connected = 0, true
		if err != nil {
			return nil, fmt.Errorf("adopt connection: %w", err)
		}
		return c.(*net.UnixConn), nil
	}
	s.host.log.Warn("bound socket is made anew to connect", "path", s.file, "reason", reason)
	s.giveUp()
	conn, err := s.host.dialFrom(ctx, &net.UnixAddr{Name: s.file, Net: "unix"}, file)
	if err == nil {
		s.connected = true
		s.know()
	}
	return conn, err
}

// close closes the socket and leaves its file. It may be called twice.
func (s *socket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.raw != 0 {
		_ = windows.Closesocket(s.raw)
		s.raw = 0
	}
	if s.l != nil {
		_ = s.l.Close()
	}
}

func (s *socket) control(fn func(h windows.Handle) error) error {
	raw, err := s.l.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = fn(windows.Handle(fd)) }); err != nil {
		return err
	}
	return inner
}

// abort closes conn so that the other end sees a failure: without a linger time
// Windows resets the connection.
func abort(conn *net.UnixConn) {
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = windows.SetsockoptLinger(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_LINGER, &windows.Linger{Onoff: 1})
		})
	}
	_ = conn.Close()
}
