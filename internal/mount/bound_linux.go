package mount

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"drvsock/internal/afunix"
	"drvsock/internal/drive"
	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/lookup"
	"drvsock/internal/relay"
	"drvsock/internal/wire"
)

const (
	// bindFor bounds what the agent may take to make a socket.
	bindFor = 30 * time.Second
	// listenFor is how long a host program waits for a program that has bound its
	// socket to listen.
	listenFor = 5 * time.Second
	// earlyBacklog is the host's backlog until the program's is known.
	earlyBacklog = 4096
	// appearFor bounds how long the file that the agent made may take to show
	// beneath.
	appearFor = 2 * time.Second
)

// A bound is a program's socket that was bound in the view. We hold no
// descriptor of it: that would keep it open when the program closes it.
type bound struct {
	v     *view
	node  *node        // held
	made  wire.Request // as it was bound
	owner *lookup.Task // as it was when it bound the socket
	diag  *diag        // of its network namespace; nil if we can't ask there
	first access       // to its file, as the agent had made it
	then  access       // the same when bind was over
	gone  chan struct{}
	gate  link.Gate // of host programs that come

	turning sync.Mutex // held while the host's socket is made anew

	number atomic.Uint32 // inode of the socket itself, 0 if unknown

	// Used by the watch alone.
	inode  uint32 // as number
	cookie [2]uint32
	found  bool // seen once
	since  time.Time

	mu      sync.Mutex
	dir     *node        // where its file is, held
	base    string       // its name there
	handle  *link.Stream // the host's socket, on the link of the time
	listens bool         // as far as seen
	backlog uint32       // of the host's socket, 0 if that doesn't listen
	now     access       // to its file, as far as changed by way of the view
	over    bool         // its name on the host is somebody else's now
	unnamed bool         // its name was taken away in the view

	connecting int // by how many calls it may have become a connection
}

// access is who may use a file.
type access struct{ mode, uid, gid uint32 }

func accessOf(st *unix.Stat_t) access { return access{st.Mode & 0o7777, st.Uid, st.Gid} }

// bind carries out the MKNOD that bind(2) is. ok is false for one that is no
// business of the host: mknod(2) itself.
func (v *view) bind(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) (_ fuse.Status, ok bool) {
	dir := v.node(in.NodeId)
	if dir == nil {
		return fuse.EPERM, true
	}
	tid := int(in.Pid)
	c := callOf(tid)
	if c.doing == doingOther || c.doing == doingConnect {
		return 0, false
	}
	if !v.begin() {
		return fuse.Status(unix.ENOTCONN), true
	}
	b := &bound{v: v, gone: make(chan struct{}), since: time.Now()}
	if fd := c.socket(tid); fd >= 0 {
		defer unix.Close(fd)
		if !isStream(fd) {
			return fuse.Status(unix.EOPNOTSUPP), true
		}
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil {
			b.inode = uint32(st.Ino)
			b.number.Store(b.inode)
		}
	}
	var err error
	if b.owner, err = lookup.ReadTask(tid); err != nil {
		b.owner = &lookup.Task{TID: tid}
	}
	b.owner.EUID, b.owner.EGID = in.Uid, in.Gid
	if b.diag, err = v.sockets.diagOf(tid); err != nil {
		v.log.Warn("no look into the network namespace of a program: its socket counts as listening", "pid", b.owner.TGID, "err", err)
	}
	path, err := v.hostPath(dir, name)
	if err != nil {
		return fuse.Status(number(err)), true
	}
	// A name without a folder is the socket's on the host too.
	var bare []byte
	if c.bareName(tid) {
		bare = []byte(name)
	}
	b.made = wire.Request{Kind: wire.KindBind, Name: bare, Path: path, Mode: in.Mode & 0o777 &^ in.Umask, Caller: callerOf(b.owner)}
	ctx, stop := interruptible(cancel)
	defer stop()
	ctx, stop2 := context.WithTimeout(ctx, bindFor)
	defer stop2()
	if b.handle, _, err = v.opts.Host.Open(ctx, b.made); err != nil {
		v.log.Info("bind refused", "path", string(path), "pid", b.made.Caller.PID, "program", b.made.Caller.Program, "err", err)
		if errors.Is(ctx.Err(), context.Canceled) {
			return fuse.EINTR, true
		}
		return fuse.Status(number(err)), true
	}
	n, st, err := v.appeared(dir, name, b.handle.Link().Done())
	if err == nil {
		b.first = accessOf(&st)
		err = v.own(n, &st, in)
	}
	if err != nil {
		v.log.Warn("the socket that the host made is not seen", "path", string(path), "err", err)
		b.handle.Reset(errno.FromSystem(err, errno.LayerGuest)) // which takes the bind back
		if n != nil {
			v.drop(n, 1)
		}
		return fuse.Status(number(err)), true
	}
	v.hold(n)
	v.hold(dir)
	b.node, b.dir, b.base = n, dir, name
	b.then, b.now = accessOf(&st), accessOf(&st)
	n.mu.Lock()
	n.guest = b
	n.mu.Unlock()
	v.opts.Host.Route(b.handle, b.accepted)
	if !v.opts.ListenLate || b.diag == nil {
		b.backlog = earlyBacklog
		if err := b.listenHost(ctx, b.handle, earlyBacklog); err != nil {
			v.log.Warn("the host's socket does not listen", "path", string(path), "err", err)
		}
	}
	if !v.sockets.add(b) {
		b.handle.Reset(errno.Errorf(errno.ECONNABORTED, errno.LayerGuest, "the view is gone"))
		v.drop(n, 2)
		v.drop(dir, 1)
		return fuse.Status(unix.ENOTCONN), true
	}
	v.sockets.mendMissed(b) // if the link was lost before it was one of them
	v.log.Debug("bound", "path", string(path), "pid", b.made.Caller.PID, "program", b.made.Caller.Program)
	v.entry(n, &st, out)
	return fuse.OK, true
}

// appeared finds the file that the agent made. When the link is lost, the agent
// takes it away.
func (v *view) appeared(dir *node, name string, lost <-chan struct{}) (*node, unix.Stat_t, error) {
	for start := time.Now(); ; {
		n, st, err := v.findSocket(dir, name)
		if err != unix.ENOENT || time.Since(start) > appearFor {
			return n, st, err
		}
		select {
		case <-lost:
			return nil, st, unix.ENETDOWN
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// findSocket is find for a file that is known to be a socket, however it looks.
func (v *view) findSocket(dir *node, base string) (*node, unix.Stat_t, error) {
	fd, st, err := openSocket(dir.fd, base)
	if err != nil {
		return nil, st, err
	}
	return v.adoptNew(fd, &st, dir, base), st, nil
}

// openSocket is openPath for a file that the agent has just made. It is about to be
// given to somebody, so a file that can't be that one is none, whoever has put it
// there meanwhile.
func openSocket(dir int, base string) (int, unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := openPath(dir, base, &st)
	if err != nil {
		return -1, st, err
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFSOCK && (kind != unix.S_IFREG || st.Size > 0) || st.Nlink > 1 {
		_ = unix.Close(fd)
		return -1, st, unix.EADDRINUSE
	}
	st.Mode = st.Mode&^unix.S_IFMT | unix.S_IFSOCK
	return fd, st, nil
}

// own gives the socket's file to its maker, see Options.Own.
func (v *view) own(n *node, st *unix.Stat_t, in *fuse.MknodIn) error {
	if !v.opts.Own || st.Uid == in.Uid && st.Gid == in.Gid {
		return nil
	}
	if err := unix.Fchownat(n.fd, "", int(in.Uid), int(in.Gid), unix.AT_EMPTY_PATH); err == nil {
		_ = unix.Fchmodat(unix.AT_FDCWD, procFD(n.fd), in.Mode&0o777&^in.Umask, 0)
	}
	err := v.stat(n, st)
	v.retime(n)
	return err
}

// hostPath is what the host calls name in dir.
func (v *view) hostPath(dir *node, name string) ([]byte, error) {
	rel, err := v.relative(dir, name)
	return v.hostOf(rel, err)
}

// hostPathOf is what the host calls the file of n.
func (v *view) hostPathOf(n *node) ([]byte, error) {
	rel, err := v.relative(n, "")
	return v.hostOf(rel, err)
}

// relative is the path beneath from the root to n, or to name in it. The kernel
// knows it, whatever was renamed since n was found.
func (v *view) relative(n *node, name string) (string, error) {
	v.mu.Lock()
	top := v.nodes[fuse.FUSE_ROOT_ID]
	if top == nil { // released
		v.mu.Unlock()
		return "", unix.ENOTCONN
	}
	fd, rootFD := n.fd, top.fd
	v.mu.Unlock()
	path, err := readlink(fd)
	if err != nil {
		return "", err
	}
	root, err := readlink(rootFD)
	if err != nil {
		return "", err
	}
	rel, ok := strings.CutPrefix(path, strings.TrimSuffix(root, "/"))
	if !ok || rel != "" && rel[0] != '/' {
		return "", unix.ENOENT // moved out of the folder
	}
	if name != "" {
		rel += "/" + name
	}
	return strings.TrimPrefix(rel, "/"), nil
}

func (v *view) hostOf(rel string, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	p := drive.JoinHost(v.opts.HostPath, []byte(rel))
	if len(p) > wire.MaxPath {
		return nil, unix.ENAMETOOLONG
	}
	return p, nil
}

func (v *view) root() *node { return v.node(fuse.FUSE_ROOT_ID) }

// findQuickly is find without asking the host: it returns no node where that
// would be necessary.
func (v *view) findQuickly(dir *node, name string) (*node, unix.Stat_t, error) {
	if v.asks {
		var st unix.Stat_t
		if err := unix.Fstatat(dir.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return nil, st, err
		}
		if v.dubious(&st) {
			return nil, st, nil
		}
	}
	return v.find(dir, name)
}

// dubious tells if a file that looks like an empty one could be a socket.
func (v *view) dubious(st *unix.Stat_t) bool {
	return v.asks && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == 0
}

// unmask has a file that beneath looks like an empty one be a socket, if it is:
// DrvFS shows those so that Windows programs made.
func (v *view) unmask(dir *node, name string, st *unix.Stat_t) {
	if !v.dubious(st) {
		return
	}
	sock := *st
	sock.Mode = st.Mode&^unix.S_IFMT | unix.S_IFSOCK
	v.mu.Lock()
	file, is := v.keys[keyOf(st)], v.keys[keyOf(&sock)] != nil
	v.mu.Unlock()
	if file != nil {
		file.mu.Lock()
		plain := file.plain
		file.mu.Unlock()
		if plain {
			return
		}
	}
	if !is {
		path, err := v.hostPath(dir, name)
		if err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), askFor)
		defer cancel()
		s, ans, err := v.opts.Host.Open(ctx, wire.Request{Kind: wire.KindStat, Path: path})
		if err != nil {
			return
		}
		_ = s.Close()
		if ans.Stat == nil || !ans.Stat.Socket {
			v.isPlain(dir, name, st)
			return
		}
	}
	*st = sock
}

// isPlain notes that the file of st is no socket, for as long as it is known.
func (v *view) isPlain(dir *node, base string, st *unix.Stat_t) {
	var now unix.Stat_t
	if unix.Fstatat(dir.fd, base, &now, unix.AT_SYMLINK_NOFOLLOW) != nil || keyOf(&now) != keyOf(st) {
		return
	}
	n := v.adopt(-1, &now, dir, base)
	n.mu.Lock()
	n.plain = true
	n.mu.Unlock()
	// find takes its own reference; until then this one keeps the node.
	time.AfterFunc(time.Second, func() { v.drop(n, 1) })
}

// accepted is the agent's word of a host program that connected.
func (b *bound) accepted(in *link.Incoming) {
	defer b.v.busy()()
	if !b.v.begin() {
		in.Refuse(errno.Errorf(errno.ECONNREFUSED, errno.LayerGuest, "the view is gone"))
		return
	}
	c, s, err := b.answer(in)
	if err != nil {
		b.v.log.Info("host program turned away", "path", string(b.made.Path), "err", err)
		return
	}
	b.v.log.Debug("host program connected", "path", string(b.made.Path))
	if err := relay.Join(c, s); err != nil {
		b.v.log.Debug("connection ended", "err", err)
	}
}

// answer takes a host program in, or refuses it.
func (b *bound) answer(in *link.Incoming) (*end, *link.Stream, error) {
	if !b.gate.Enter() {
		err := errno.Errorf(errno.ECONNREFUSED, errno.LayerGuest, "the program closed its socket")
		in.Refuse(err)
		return nil, nil, err
	}
	defer b.gate.Leave()
	c, err := b.reach(in.Context(), in.Request.Peer)
	if err != nil {
		in.Refuse(err)
		return nil, nil, err
	}
	s, err := in.Accept(wire.Answer{})
	if err != nil {
		_ = c.Close()
		return nil, nil, err
	}
	return c, s, nil
}

// reach connects a new socket to the program's listener. peer is the name that
// the host program's socket is bound to, which the program then sees.
func (b *bound) reach(ctx context.Context, peer []byte) (*end, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "program")
	defer f.Close()
	afunix.RefuseRights(fd)
	b.v.hidden.nameAs(fd, string(peer))
	start := time.Now()
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		// The program sees its own user as the peer's: a program on the host has
		// none here, and ours may be root. The right to open the socket's file is
		// ours: the host has let its program in.
		err := b.v.hidden.connectTo(b.node, b.owner, fd)
		switch err {
		case nil:
			c, err := net.FileConn(f)
			if err != nil {
				return nil, err
			}
			return newEnd(c.(*net.UnixConn), b.owner.TGID)
		case unix.EAGAIN, unix.EINTR: // no room: it has to accept first
		case unix.ECONNREFUSED:
			b.mu.Lock()
			waits := !b.listens && b.diag != nil && time.Since(start) < listenFor
			b.mu.Unlock()
			if waits {
				break
			}
			return nil, errno.Errorf(errno.ECONNREFUSED, errno.LayerGuest, "the program does not listen")
		default:
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-b.gone:
			return nil, errno.Errorf(errno.ECONNREFUSED, errno.LayerGuest, "the program closed its socket")
		case <-time.After(wait):
		}
	}
}
