package mount

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"drvsock/internal/afunix"
	"drvsock/internal/errno"
	"drvsock/internal/lookup"
	"drvsock/internal/relay"
	"drvsock/internal/wire"
)

const (
	// idleAfter is how long we listen on a host's socket that nobody connects to.
	idleAfter = time.Minute
	// askFor bounds a question about a file.
	askFor = 2 * time.Second
)

// A met is a socket of the host that programs of the guest connect to: our
// listener on its file of the view.
type met struct {
	v    *view
	node *node
	l    *net.UnixListener
	file *os.File // the same, to wait without accepting

	mu     sync.Mutex
	used   time.Time
	offers map[int][]*offer // by process
	looked wire.Caller      // who looked last without our knowing what for
	closed bool
}

// meet prepares for a connect to n, a socket that was found as name in dir. Its
// error is that of the lookup, and so of the call.
//
// A task that only looks gets no more than the attributes. Where it can't be told
// what a task does, and for one that opens the file to connect by that, the agent is
// asked when there is a client: a refusal comes as the reset of a connection.
func (v *view) meet(cancel <-chan struct{}, in *fuse.InHeader, dir *node, name string, n *node) error {
	if n.boundSocket() != nil {
		return nil // the kernel finds the program's own, or refuses
	}
	tid := int(in.Pid)
	c := callOf(tid)
	if c.doing != doingConnect && c.doing != doingPath && c.doing != doingUnknown {
		return nil
	}
	task, err := lookup.ReadTask(tid)
	if err != nil {
		task = &lookup.Task{TID: tid, EUID: in.Uid, EGID: in.Gid}
	} else if task.May(n.fd, unix.W_OK) != nil {
		return nil // which the kernel refuses; the host is not to know of it
	}
	m, err := n.meeting(v, name)
	if err != nil {
		v.log.Warn("socket of the host", "name", name, "err", err)
		if c.doing == doingPath {
			return nil
		}
		return unix.ECONNREFUSED
	}
	if c.doing != doingConnect {
		m.mu.Lock()
		m.looked = callerOf(task)
		m.mu.Unlock()
		return nil
	}
	req := wire.Request{Kind: wire.KindConnect, Caller: callerOf(task)}
	var own *bound // whose socket it is that connects, if it has a name on the host
	var ino uint64
	if fd := c.socket(tid); fd >= 0 {
		defer unix.Close(fd)
		if !isStream(fd) || !unconnected(fd) {
			return nil
		}
		nonblock, limit := waiting(fd)
		req.Nonblock, req.Timeout = nonblock, uint32(limit.Milliseconds())
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil {
			ino = st.Ino
			own = v.sockets.of(uint32(ino))
		}
	}
	if m.offered(task.TGID, tid, ino) {
		return nil // looked up twice for one call
	}
	if req.Path, err = v.hostPath(dir, name); err != nil {
		return err
	}
	o := v.ask(tid, ino, req, own)
	o.prompt = req.Nonblock
	switch answered, err := o.wait(cancel); {
	case errors.Is(err, errInterrupted):
		return unix.EINTR
	case err != nil:
		v.log.Info("connect refused", "path", string(req.Path), "pid", req.Caller.PID, "program", req.Caller.Program, "err", err)
		return refused(err)
	case answered:
		v.log.Debug("connected", "path", string(req.Path), "pid", req.Caller.PID, "program", req.Caller.Program)
	default:
		v.log.Info("connect goes on in the background", "path", string(req.Path), "pid", req.Caller.PID, "program", req.Caller.Program)
	}
	for !m.offer(task.TGID, o) { // the listener was closed meanwhile
		if m, err = n.meeting(v, name); err != nil {
			o.drop("no listener for the program")
			v.log.Warn("socket of the host", "name", name, "err", err)
			return unix.ECONNREFUSED
		}
	}
	return nil
}

func callerOf(t *lookup.Task) wire.Caller {
	return wire.Caller{UID: t.EUID, GID: t.EGID, PID: uint32(t.TGID), Program: t.Name}
}

// waiting tells how long the socket would wait in connect(2).
func waiting(fd int) (nonblock bool, limit time.Duration) {
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err == nil && flags&unix.O_NONBLOCK != 0 {
		return true, 0
	}
	if tv, err := unix.GetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO); err == nil {
		limit = time.Duration(tv.Nano())
	}
	return false, limit
}

// refused makes of a lost link what a connecting program knows: that nobody is
// there. That another thread connects the same socket, AF_UNIX says with EISCONN.
func refused(err error) error {
	var e *errno.Error
	if errors.As(err, &e) && e.Layer != errno.LayerLink {
		if e.Errno == errno.EALREADY {
			return errno.Errorf(errno.EISCONN, e.Layer, "another thread connects the socket")
		}
		return e
	}
	return errno.Errorf(errno.ECONNREFUSED, errno.LayerLink, "%v", err)
}

// number is the errno of what failed on the way to the host.
func number(err error) errno.Errno { return errno.FromSystem(err, errno.LayerGuest).Errno }

// patience is how long what was asked on behalf of a task goes on after a signal
// came for that task. A task that was killed is not gone before we answer; on
// the other hand signals are sent for little reason (Go's runtime), and programs
// don't expect a call that is over in no time to be interrupted.
const patience = 200 * time.Millisecond

// interruptible returns a context that ends soon after the kernel's INTERRUPT.
func interruptible(cancel <-chan struct{}) (context.Context, func()) {
	ctx, end := context.WithCancel(context.Background())
	go func() {
		select {
		case <-ctx.Done():
			return
		case <-cancel:
		}
		select {
		case <-ctx.Done():
		case <-time.After(patience):
			end()
		}
	}()
	return ctx, end
}

// meeting returns the listener on n, made now if need be.
func (n *node) meeting(v *view, name string) (*met, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.host != nil {
		n.host.mu.Lock()
		n.host.used = time.Now()
		n.host.mu.Unlock()
		return n.host, nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	kept := false
	defer func() {
		if !kept {
			_ = f.Close()
		}
	}()
	afunix.RefuseRights(fd)
	if err := v.hidden.bindTo(n, name, fd); err != nil {
		return nil, fmt.Errorf("bind in the view: %w", err)
	}
	// A client that asks who listens (SO_PEERCRED) is told the file's owner, and
	// not root.
	owner := lookup.Task{EUID: v.uid, EGID: uint32(os.Getegid())}
	var st unix.Stat_t
	if v.stat(n, &st) == nil {
		owner.EUID, owner.EGID = st.Uid, st.Gid
	}
	if err := owner.AsPeer(func() error { return unix.Listen(fd, 4096) }); err != nil {
		return nil, fmt.Errorf("listen in the view: %w", err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("adopt a listener: %w", err)
	}
	m := &met{v: v, node: n, l: l.(*net.UnixListener), file: f, used: time.Now(), offers: map[int][]*offer{}}
	m.l.SetUnlinkOnClose(false)
	if !v.sockets.watchMet(m) {
		_ = l.Close()
		return nil, unix.ENOTCONN
	}
	kept = true
	n.host = m
	go m.serve()
	return m, nil
}

// serve accepts until the listener is closed.
func (m *met) serve() {
	for pause := time.Millisecond; ; {
		o, ok := m.unasked()
		if !ok {
			return
		}
		c, err := m.l.AcceptUnix()
		switch {
		case err == nil:
			pause = time.Millisecond
			if m.v.begin() {
				go m.join(c, o)
				continue
			}
			_ = c.Close()
		case errors.Is(err, net.ErrClosed):
		default: // out of descriptors
			time.Sleep(pause)
			pause = min(2*pause, time.Second)
		}
		if o != nil {
			o.drop("the program did not connect")
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// unasked waits for a client. For one whose coming was not foreseen it asks the
// agent before the client is accepted: if that refuses, our listener is closed,
// which resets those who were not accepted (unix_release_sock), where closing an
// accepted connection looks like its end. An agent that takes its time is asked no
// longer than the lookup of a connect would be, as others wait behind this client.
// It returns the offer for it, nil for a client that may have its own, and false if
// there is no listener any more.
func (m *met) unasked() (_ *offer, ok bool) {
	raw, err := m.file.SyscallConn()
	if err != nil {
		return nil, false
	}
	err = raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
	if err != nil {
		return nil, false
	}
	m.mu.Lock()
	foreseen, caller := len(m.offers) > 0, m.looked
	m.used = time.Now() // by who may have looked long ago
	m.mu.Unlock()
	if foreseen {
		return nil, true
	}
	o := m.late(caller)
	_, err = o.wait(nil)
	if err == nil || !m.v.sockets.endMet(m) {
		return o, true
	}
	m.v.log.Info("connection reset: the host refused it", "pid", caller.PID, "program", caller.Program, "err", err)
	return nil, false
}

// join relays one connection, by way of o if that is not nil.
func (m *met) join(c *net.UnixConn, o *offer) {
	defer m.v.busy()()
	e, cred, err := newPeer(c)
	if err != nil {
		if o != nil {
			o.drop(err.Error())
		}
		return
	}
	if o == nil {
		o = m.take(e)
	}
	if o == nil {
		caller := wire.Caller{UID: cred.Uid, GID: cred.Gid, PID: uint32(cred.Pid)}
		if t, err := lookup.ReadTask(int(cred.Pid)); err == nil {
			caller.Program = t.Name
		}
		o = m.late(caller)
	}
	s, err := o.meet(c)
	if err != nil {
		m.v.log.Info("connection reset: the host refused it", "pid", cred.Pid, "err", err)
		e.Abort()
		_ = e.Close()
		return
	}
	if err := relay.Join(e, s); err != nil {
		m.v.log.Debug("connection ended", "err", err)
	}
}

// late asks the agent for a connection that was not foreseen.
func (m *met) late(caller wire.Caller) *offer {
	path, err := m.v.hostPathOf(m.node)
	if err != nil {
		o := &offer{cancel: func() {}, asked: make(chan struct{}), err: err}
		close(o.asked)
		return o
	}
	return m.v.ask(0, 0, wire.Request{Kind: wire.KindConnect, Path: path, Caller: caller}, nil)
}

// newPeer makes an end of c, which it takes over, with who is its peer.
func newPeer(c *net.UnixConn) (*end, *unix.Ucred, error) {
	cred, err := peerOf(c)
	if err != nil {
		_ = c.Close()
		return nil, nil, err
	}
	e, err := newEnd(c, int(cred.Pid))
	return e, cred, err
}

func peerOf(c *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	if e := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); e != nil {
		return nil, e
	}
	return cred, err
}

// idle closes the listener if nobody has used it for long.
func (m *met) idle(now time.Time) bool {
	m.node.mu.Lock()
	defer m.node.mu.Unlock()
	m.mu.Lock()
	old := now.Sub(m.used) > idleAfter
	m.mu.Unlock()
	if !old || !m.stop(false) {
		return false
	}
	m.node.host = nil
	return true
}

// stop ends the listener; connections go on. Unless it is forced, one with offers
// stays. m.node.mu is held.
func (m *met) stop(forced bool) bool {
	m.mu.Lock()
	if !forced && len(m.offers) > 0 {
		m.mu.Unlock()
		return false
	}
	m.closed = true
	offers := m.offers
	m.offers = map[int][]*offer{}
	m.mu.Unlock()
	_ = m.l.Close()
	_ = m.file.Close()
	for _, list := range offers {
		for _, o := range list {
			o.timer.Stop()
			o.drop("the view is gone")
		}
	}
	return true
}
