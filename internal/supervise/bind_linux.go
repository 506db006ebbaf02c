package supervise

import (
	"bytes"
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/afunix"
	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/lookup"
	"drvsock/internal/seccomp"
	"drvsock/internal/wire"
)

// bind carries bind(2) out if the name lies on a drive: the agent makes the
// real socket there, and the program's own gets the same name natively, in a
// place that only we can reach.
func (s *supervisor) bind(n seccomp.Notif, call seccomp.Call) error {
	t, err := s.target(n, call, false)
	if err != nil {
		return err
	}
	defer t.place.Close()
	c, err := s.socketOf(n, call.FD, errno.EOPNOTSUPP)
	if errors.Is(err, errNative) {
		return err
	}
	if t.place.Exists() {
		// Before the kernel looks at the type of socket, or if it may be made there
		// (unix_bind_bsd, filename_create). It is not asked: the file may be gone by
		// then, and what it says of a socket on a drive is no answer.
		if err == nil {
			_ = unix.Close(c)
		}
		return errno.Errorf(errno.EADDRINUSE, errno.LayerGuest, "a file has this name")
	}
	if err != nil {
		return err
	}
	defer unix.Close(c)
	// What may not be made the kernel refuses by itself before it asks the file
	// system (may_create).
	if t.task.May(t.place.Parent, unix.W_OK|unix.X_OK) != nil {
		return errNative
	}
	if named(c) {
		return errno.Errorf(errno.EINVAL, errno.LayerGuest, "the socket has a name already")
	}
	if err := room(c); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(c, &st); err != nil {
		return errNative
	}
	if !s.notify.Valid(n.ID) {
		return seccomp.ErrGone
	}
	ctx, done := s.patience.with(s.notify, n)
	defer done()
	req := wire.Request{
		Kind: wire.KindBind, Path: t.path, Caller: caller(t.task),
		// As unix_bind_bsd does it: fchmod(2) on the socket before counts.
		Mode: st.Mode & 0o777 &^ t.task.Umask,
	}
	if bytes.IndexByte(sunPath(t.sockaddr), '/') < 0 {
		req.Name = t.place.Base
	}
	handle, err := s.host.open(ctx, req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	name, err := s.names.bind(c, t.sockaddr)
	if err != nil {
		handle.Reset(err) // which takes the bind back
		return err
	}
	sock := &socket{inode: st.Ino, name: name, handle: handle, made: req, base: t.place.Base, folder: t.place.Parent, owner: t.task}
	sock.file = sock.look()
	s.sockets.replace(sock)
	if err := s.sockets.add(c, sock); err != nil {
		_ = name.Close()
		handle.Reset(err) // which takes the bind back
		return err
	}
	t.place.Parent = -1 // the socket's now
	select {
	case <-handle.Link().Done(): // maybe before it was one of those to bring back
		go s.restore()
	default:
	}
	s.log.Debug("bound", "path", string(t.path), "pid", req.Caller.PID, "program", req.Caller.Program)
	return nil
}

// named tells if the socket has a name already. Package unix writes the NUL
// that begins an abstract name as '@', and so too that of an empty address.
func named(c int) bool {
	addr, err := unix.Getsockname(c)
	if err != nil {
		return false
	}
	u, ok := addr.(*unix.SockaddrUnix)
	return ok && u.Name != "" && u.Name != "@"
}

// listen tells the agent before the kernel: the program's own listen(2) follows,
// made by the program itself, so that SO_PEERCRED of its clients names it.
func (s *supervisor) listen(n seccomp.Notif, call seccomp.Call) error {
	if s.sockets.none() {
		return errNative
	}
	c, err := seccomp.GetFD(n.TID, call.FD)
	if err != nil {
		if wanting(err) {
			s.log.Warn("a task's socket can't be taken, so host programs may not know that it listens", "task", n.TID, "err", err)
		}
		return errNative
	}
	defer unix.Close(c)
	sock := s.sockets.of(c)
	if sock == nil {
		return errNative
	}
	task, err := lookup.ReadTask(n.TID)
	if err != nil {
		return err
	}
	backlog := uint32(call.Backlog) // a negative one is the largest, as __sys_listen has it
	undo, news := sock.startListening(backlog)
	if !news {
		return errNative
	}
	ctx, done := s.patience.with(s.notify, n)
	defer done()
	err = s.listenHost(ctx, sock, wire.Request{Kind: wire.KindListen, Backlog: backlog, Caller: caller(task)})
	if err != nil {
		undo()
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	s.log.Debug("listening", "path", sock.path())
	return errNative
}

// listenHost tells the agent that sock listens. If the link of its host socket
// was lost, that is up to restore: host programs are refused until the socket is
// back, as they are when the link is lost a moment later.
func (s *supervisor) listenHost(ctx context.Context, sock *socket, req wire.Request) error {
	for {
		handle, _ := s.sockets.keys(sock)
		req.From = handle.ID()
		err := finishOn(ctx, handle.Link(), req)
		select {
		case <-handle.Link().Done():
		default:
			return err
		}
		if now, _ := s.sockets.keys(sock); now == handle {
			return nil
		}
	}
}

// accepted is the agent's word of a host program that connected to a socket of
// ours. It runs in a goroutine of its own.
func (s *supervisor) accepted(in *link.Incoming) {
	s.work.add()
	defer s.work.done()
	if in.Request.Kind != wire.KindAccepted {
		in.Refuse(errno.Errorf(errno.EOPNOTSUPP, errno.LayerGuest, "request %d is not for a guest", in.Request.Kind))
		return
	}
	sock := s.sockets.byHandle(in.Request.From)
	if sock == nil {
		in.Refuse(errno.Errorf(errno.ECONNREFUSED, errno.LayerGuest, "no such socket"))
		return
	}
	conn, stream, err := s.welcome(in, sock)
	if err != nil {
		return
	}
	s.log.Debug("host program connected", "path", sock.path())
	s.relay(conn, stream)
}

// welcome takes a host program in that connected to sock, or refuses it.
func (s *supervisor) welcome(in *link.Incoming, sock *socket) (*conn, *link.Stream, error) {
	if !sock.gate.Enter() {
		err := errno.Errorf(errno.ECONNREFUSED, errno.LayerGuest, "the program closed its socket")
		in.Refuse(err)
		return nil, nil, err
	}
	defer sock.gate.Leave()
	r, err := s.reach(in.Context(), sock, in.Request.Peer)
	if err != nil {
		in.Refuse(err)
		return nil, nil, err
	}
	c, err := newConn(r)
	if err != nil {
		in.Refuse(err)
		return nil, nil, err
	}
	stream, err := in.Accept(wire.Answer{})
	if err != nil {
		_ = c.Close()
		return nil, nil, err
	}
	return c, stream, nil
}

// reach connects a new socket to the program's listener. peer is the name that
// the host program's socket is bound to, which the program then sees.
func (s *supervisor) reach(ctx context.Context, sock *socket, peer []byte) (int, error) {
	r, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if err := room(r); err != nil {
		_ = unix.Close(r)
		return -1, err
	}
	afunix.RefuseRights(r)
	if len(peer) > 0 && len(peer) <= maxSockaddr-2 {
		// As a program would pass it: with the NUL where there is room.
		a := append([]byte{unix.AF_UNIX, 0}, peer...)
		if len(a) < maxSockaddr {
			a = append(a, 0)
		}
		if name, err := s.names.bind(r, a); err == nil {
			_ = name.Close()
		}
	}
	// Refused can mean that the program's listen(2), which follows the agent's,
	// has not been carried out yet; no room, that it has to accept first.
	refusals := 0
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		// The program sees its own user as the peer's: a program on the host has
		// none here, and ours may be root.
		err := sock.name.Use(func(path string) error {
			return sock.owner.AsPeer(func() error { return unix.Connect(r, &unix.SockaddrUnix{Name: path}) })
		})
		if err == nil {
			return r, nil
		}
		if err == unix.ECONNREFUSED {
			if refusals++; refusals > 20 || !sock.alive() {
				_ = unix.Close(r)
				return -1, errno.Errorf(errno.ECONNREFUSED, errno.LayerGuest, "the program does not listen")
			}
		} else if err != unix.EAGAIN && err != unix.EINTR {
			_ = unix.Close(r)
			return -1, err
		}
		select {
		case <-ctx.Done():
			_ = unix.Close(r)
			return -1, context.Cause(ctx)
		case <-sock.gone:
			_ = unix.Close(r)
			return -1, errno.Errorf(errno.ECONNREFUSED, errno.LayerGuest, "the program closed its socket")
		case <-time.After(wait):
		}
	}
}
