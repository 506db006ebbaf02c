package supervise

import (
	"context"
	"errors"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/afunix"
	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/lookup"
	"drvsock/internal/relay"
	"drvsock/internal/seccomp"
	"drvsock/internal/wire"
)

// connect carries connect(2) out if it leads to a drive. Everything that the
// kernel itself would refuse on the way (a missing name, a folder without
// search permission, a socket without write permission) is left to the kernel.
//
// then is what is to be done once the task has its answer, nil for nothing.
func (s *supervisor) connect(n seccomp.Notif, call seccomp.Call) (then func(), err error) {
	t, err := s.target(n, call, true)
	if err != nil {
		return nil, err
	}
	defer t.place.Close()
	if !t.place.Exists() {
		return nil, errNative
	}
	if t.place.Stat.Mode&unix.S_IFMT == unix.S_IFDIR || t.task.May(t.place.Target, unix.W_OK) != nil {
		return nil, errNative
	}
	c, err := s.socketOf(n, call.FD, errno.EPROTOTYPE)
	if err != nil {
		return nil, err
	}
	defer unix.Close(c)
	if err := unconnected(c); err != nil {
		return nil, err
	}
	// Everything read of the task so far counts only if it was still waiting.
	if !s.notify.Valid(n.ID) {
		return nil, seccomp.ErrGone
	}
	ctx, done := s.patience.with(s.notify, n)
	defer done()
	if own := s.sockets.at(&t.place.Stat); own != nil {
		s.clients.note(c, t.task)
		if err := s.connectNative(ctx, c, t.task, own); err != nil {
			s.clients.forget(c)
			return nil, err
		}
		return nil, nil
	}
	if err := room(c); err != nil {
		return nil, err
	}
	return s.connectHost(ctx, n, call.FD, c, t)
}

// unconnected gives the errors that unix_stream_connect of the kernel gives for
// the state of the connecting socket.
func unconnected(c int) error {
	if v, err := unix.GetsockoptInt(c, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err == nil && v != 0 {
		return errno.Errorf(errno.EINVAL, errno.LayerGuest, "the socket listens")
	}
	if _, err := unix.Getpeername(c); err == nil {
		return errno.Errorf(errno.EISCONN, errno.LayerGuest, "the socket is connected")
	}
	return nil
}

func caller(t *lookup.Task) wire.Caller {
	return wire.Caller{UID: t.EUID, GID: t.EGID, PID: uint32(t.TGID), Program: t.Name}
}

// waiting tells how long the socket c would wait in connect(2): not at all, or
// up to limit (0 for ever).
func waiting(c int) (nonblock bool, limit time.Duration) {
	if flags, err := unix.FcntlInt(uintptr(c), unix.F_GETFL, 0); err == nil && flags&unix.O_NONBLOCK != 0 {
		return true, 0
	}
	if tv, err := unix.GetsockoptTimeval(c, unix.SOL_SOCKET, unix.SO_SNDTIMEO); err == nil {
		limit = time.Duration(tv.Nano())
	}
	return false, limit
}

// milliseconds is limit as the link has it: 0, which is none there, for none alone.
func milliseconds(limit time.Duration) uint32 {
	if limit <= 0 {
		return 0
	}
	return uint32(min(max(limit.Milliseconds(), 1), math.MaxUint32))
}

// connectHost connects the task's socket c to a host socket: a stream on the
// link, and a native connection from c to us which relay, to be called then, joins
// with it.
func (s *supervisor) connectHost(ctx context.Context, n seccomp.Notif, fd, c int, t *target) (relay func(), err error) {
	nonblock, limit := waiting(c)
	req := wire.Request{
		Kind: wire.KindConnect, Path: t.path,
		Nonblock: nonblock, Timeout: milliseconds(limit), Caller: caller(t.task),
	}
	var stream *link.Stream
	if handle := s.sockets.handleOf(c); handle != nil {
		req.From = handle.ID()
		stream, _, err = handle.Link().Open(ctx, req)
	} else {
		stream, err = s.host.open(ctx, req)
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, refused(err)
	}
	r, err := s.meetings.connect(s.names, t.task, c, t.sockaddr)
	if err != nil {
		stream.Reset(err)
		return nil, err
	}
	conn, err := newConn(r)
	if err != nil {
		stream.Reset(err)
		return nil, err
	}
	conn.peer = rememberPeer(n.TID, fd, c)
	if req.From != 0 {
		s.sockets.connected(c)
	}
	s.log.Debug("connected", "path", string(req.Path), "pid", req.Caller.PID, "program", req.Caller.Program)
	return func() { s.relay(conn, stream) }, nil
}

// refused makes of a lost link what a connecting program knows: that nobody is
// there. The log has the real reason.
func refused(err error) error {
	var e *errno.Error
	if !errors.As(err, &e) || e.Layer != errno.LayerLink {
		return err
	}
	c := *e
	c.Errno = errno.ECONNREFUSED
	return &c
}

// relay moves bytes until both directions are over.
func (s *supervisor) relay(conn *conn, stream *link.Stream) {
	s.work.add()
	go func() {
		defer s.work.done()
		if err := relay.Join(conn, stream); err != nil {
			s.log.Debug("connection ended", "err", err)
		}
	}()
}

// connectNative connects c, task's socket, to a socket of our own tree: nothing
// is between the two afterwards. The kernel would wait for room in the backlog
// inside the call; here it waits in slices, so that the task can be interrupted.
//
// The server must never see our user as its client's, not even for the moment
// or in the case in which peerCred can't tell: ours may be root.
func (s *supervisor) connectNative(ctx context.Context, c int, task *lookup.Task, own *socket) error {
	const slice = 100 * time.Millisecond
	nonblock, limit := waiting(c)
	connect := func() error {
		return own.name.Use(func(path string) error {
			return task.AsPeer(func() error { return unix.Connect(c, &unix.SockaddrUnix{Name: path}) })
		})
	}
	if nonblock {
		return connectErr(connect())
	}
	old, err := unix.GetsockoptTimeval(c, unix.SOL_SOCKET, unix.SO_SNDTIMEO)
	if err != nil {
		return connectErr(err)
	}
	// The option is the open file's, not ours alone; nobody sends on a socket
	// that isn't connected, so nobody else can notice.
	tv := unix.NsecToTimeval(int64(slice))
	if err := unix.SetsockoptTimeval(c, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
		return connectErr(err)
	}
	defer unix.SetsockoptTimeval(c, unix.SOL_SOCKET, unix.SO_SNDTIMEO, old)
	for start := time.Now(); ; {
		err := connect()
		if err != unix.EAGAIN && err != unix.EINTR {
			return connectErr(err)
		}
		if limit > 0 && time.Since(start) >= limit {
			return connectErr(unix.EAGAIN)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

func connectErr(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := err.(unix.Errno); ok {
		return errno.Errorf(errno.Errno(e), errno.LayerGuest, "connect to a socket of the same tree: %v", err)
	}
	return err
}

// conn is our end of a native connection to a program of the tree.
type conn struct {
	*afunix.Conn
	own  uint64 // inode of this end
	peer peer   // the zero value until it is looked for
}

// newConn takes the descriptor over, which must not block.
func newConn(fd int) (*conn, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &conn{Conn: afunix.NewConn(fd), own: st.Ino}, nil
}

// peer says where the program's end was when it connected.
type peer struct {
	tid, fd int
	inode   uint64
}

func rememberPeer(tid, fd, c int) peer {
	var st unix.Stat_t
	if unix.Fstat(c, &st) != nil {
		return peer{}
	}
	return peer{tid: tid, fd: fd, inode: st.Ino}
}

// Abort makes the close that follows an abortive one for the program. AF_UNIX
// has one way to tell a failure from an end: a socket closed with bytes in its
// receive queue gives its peer ECONNRESET (unix_release_sock). So a byte is put
// into our queue, from the program's own socket if that is still where it was.
func (c *conn) Abort() {
	if fd, ok := c.end(); ok {
		leaveByte(fd)
	}
}

// Plant is Abort where the program's socket need not be looked for.
func (c *conn) Plant() bool {
	if c.peer.inode == 0 {
		return false
	}
	fd, ok := c.peer.socketAt()
	return ok && leaveByte(fd)
}

func leaveByte(fd int) bool {
	defer unix.Close(fd)
	return unix.Sendto(fd, []byte{0}, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil) == nil
}
