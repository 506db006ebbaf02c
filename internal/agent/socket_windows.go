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

	"drvsock/internal/afunix"
	"drvsock/internal/errno"
	"drvsock/internal/relay"
)

// unixSocket is a bound socket. It begins as a bare handle, since package net has
// no socket that is bound and doesn't listen, and becomes package net's with
// listen or connect.
type unixSocket struct {
	host *host
	file string // absolute path of the file

	id atomic.Pointer[afunix.Identity] // of the file that bind made; nil if unknown

	mu        sync.Mutex
	raw       windows.Handle    // 0 once it went over to package net, or closed; connectRaw's while busy
	l         *net.UnixListener // after listen; never unlinks
	busy      bool              // a connect is under way
	connected bool
	closed    bool
}

// listen makes the socket listen, or changes its backlog.
func (s *unixSocket) listen(backlog int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy || s.connected || s.closed {
		return errno.Errorf(errno.EINVAL, errno.LayerAgent, "%s is connected or closed", s.file)
	}
	if s.l != nil {
		return s.control(func(h windows.Handle) error { return windows.Listen(h, backlog) })
	}
	err := s.adoptable(s.raw)
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
func (s *unixSocket) listenAnew(reason error) error {
	s.host.log.Warn("bound socket is made anew to listen", "path", s.file, "reason", reason)
	s.giveUp()
	err := afunix.WithShort(s.file, func(name string) error {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		if err == nil {
			l.SetUnlinkOnClose(false)
			s.l = l
		}
		return err
	})
	if err != nil {
		return afunix.Refused(errno.OpBind, s.file, err)
	}
	s.know()
	return nil
}

// know notes the identity of the file, which was made just now.
func (s *unixSocket) know() {
	id, err := afunix.Identify(s.file)
	if err != nil {
		s.host.log.Warn("socket file without identity stays at the end", "error", err)
		s.id.Store(nil)
		return
	}
	s.id.Store(&id)
}

// giveUp closes the bare handle and removes its file.
func (s *unixSocket) giveUp() {
	if err := s.removeOwn(); err != nil {
		s.host.log.Warn("socket file stays", "error", err)
	}
	if s.raw != 0 {
		_ = windows.Closesocket(s.raw)
		s.raw = 0
	}
}

// adoptable says whether the system can duplicate the socket raw, as package net
// does to take it over. A stand-in for Winsock may not.
func (s *unixSocket) adoptable(raw windows.Handle) error {
	if raw == 0 {
		return errno.Errorf(errno.EBADF, errno.LayerAgent, "%s has lost its socket", s.file)
	}
	var info windows.WSAProtocolInfo
	if err := windows.WSADuplicateSocket(raw, windows.GetCurrentProcessId(), &info); err != nil {
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
func (s *unixSocket) accept() (conn *net.UnixConn, peer []byte, err error) {
	s.mu.Lock()
	l := s.l
	s.mu.Unlock()
	conn, err = l.AcceptUnix()
	if err != nil {
		return nil, nil, err
	}
	return conn, afunix.PeerName(conn), nil
}

// connect connects the socket itself, so that the peer sees its name.
func (s *unixSocket) connect(ctx context.Context, path []byte, _ afunix.Wait) (relay.Conn, error) {
	file, err := afunix.CheckWindowsPath(path)
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
func (s *unixSocket) connectRaw(ctx context.Context, raw windows.Handle, file string) (*net.UnixConn, error) {
	reason := s.adoptable(raw)
	var refused error
	if reason == nil {
		err := afunix.WithShort(file, func(name string) error {
			return windows.Connect(raw, &windows.SockaddrUnix{Name: name})
		})
		if err != nil {
			refused = afunix.Refused(errno.OpConnect, file, fmt.Errorf("connect %s: %w", file, err))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = false
	if s.closed {
		_ = windows.Closesocket(raw) // close left it
		s.raw = 0
		return nil, net.ErrClosed
	}
	if refused != nil {
		return nil, refused
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
	conn, err := afunix.Dial(ctx, &net.UnixAddr{Name: s.file, Net: "unix"}, file)
	if err == nil {
		s.connected = true
		s.know()
	}
	return conn, err
}

// close closes the socket and leaves its file. It may be called twice. A handle
// that a connect is under way on is closed after it: its number could be another
// socket's by then.
func (s *unixSocket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.raw != 0 && !s.busy {
		_ = windows.Closesocket(s.raw)
		s.raw = 0
	}
	if s.l != nil {
		_ = s.l.Close()
	}
}

// owns reports whether the file is the one that bind made.
func (s *unixSocket) owns() bool {
	made := s.id.Load()
	if made == nil {
		return false
	}
	id, err := afunix.Identify(s.file)
	return err == nil && id == *made
}

// at reports whether path leads to the file that bind made.
func (s *unixSocket) at(_ *host, path []byte) bool {
	return strings.EqualFold(string(path), s.file) && s.owns()
}

// removeOwn removes the file if it is the one that bind made.
func (s *unixSocket) removeOwn() error {
	if !s.owns() {
		return nil
	}
	return afunix.Remove(s.file)
}

func (s *unixSocket) control(fn func(h windows.Handle) error) error {
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

// reset makes the Close of a program's connection a reset: without a linger time
// Windows does so.
func reset(conn relay.Conn) {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return
	}
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = windows.SetsockoptLinger(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_LINGER, &windows.Linger{Onoff: 1})
		})
	}
}
