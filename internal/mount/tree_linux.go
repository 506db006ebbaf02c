package mount

import (
	"log/slog"
	"os"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// key is a file beneath. The kind of file is part of it, as the kernel doesn't
// let an inode change its type. File systems give the number of a removed file
// to the next one at once, and the view of another file server can't keep the
// number in use by holding the file; for sockets, where taking one for another
// would matter, the time, which is that of bind, tells the two apart.
type key struct {
	dev, ino uint64
	kind     uint32 // S_IFMT
	mtime    unix.Timespec
}

func keyOf(st *unix.Stat_t) key {
	k := key{dev: uint64(st.Dev), ino: st.Ino, kind: st.Mode & unix.S_IFMT}
	if k.kind == unix.S_IFSOCK {
		k.mtime = st.Mtim
	}
	return k
}

// A node is what the kernel knows by an id: a file beneath.
type node struct {
	id   uint64
	kind uint32 // S_IFMT, as the kernel is told
	fd   int    // O_PATH descriptor of the file beneath, owned
	ino  uint64 // number of the file as it was found

	// Guarded by tree.mu.
	key  key
	refs uint64 // that the kernel has, and those of our own
	at   name   // where it was found first; not for folders and sockets

	backing backing

	mu    sync.Mutex
	plain bool   // an empty file that the host says is no socket
	guest *bound // a program's socket that was bound to it, closed or not
	host  *met   // our listener, where the socket is the host's
}

func (n *node) socket() bool { return n.kind == unix.S_IFSOCK }

// bound returns the program's socket that was bound to n through the view.
func (n *node) boundSocket() *bound {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.guest
}

// view is the file system.
type view struct {
	fuse.RawFileSystem
	log     *slog.Logger
	opts    Options
	uid     uint32 // of this process
	dev     uint64 // of the root beneath
	asks    bool   // the folder beneath may show sockets as files
	maker   *maker
	hidden  hidden
	sockets *sockets
	trim    trimmer
	server  *fuse.Server

	mu      sync.Mutex
	nodes   map[uint64]*node
	keys    map[key]*node
	lastID  uint64
	handles map[uint64]*handle
	dirs    map[uint64]*dirHandle
	lastFH  uint64
	closed  bool
}

func (v *view) node(id uint64) *node {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.nodes[id]
}

// adopt returns the node of the file fd, whose attributes are st, with one more
// reference. It takes fd over.
func (v *view) adopt(fd int, st *unix.Stat_t, at name) *node {
	k := keyOf(st)
	v.mu.Lock()
	defer v.mu.Unlock()
	if n := v.keys[k]; n != nil {
		_ = unix.Close(fd)
		n.refs++
		return n
	}
	v.lastID++
	n := &node{id: v.lastID, kind: k.kind, fd: fd, ino: v.number(k.dev, k.ino), key: k, refs: 1}
	v.nodes[n.id], v.keys[k] = n, n
	v.found(n, at)
	return n
}

// adoptNew is adopt for a file that was just made: what is known by its key is
// one that is gone.
func (v *view) adoptNew(fd int, st *unix.Stat_t, at name) *node {
	v.mu.Lock()
	delete(v.keys, keyOf(st))
	v.mu.Unlock()
	return v.adopt(fd, st, at)
}

// findNew is find for a file that was just made.
func (v *view) findNew(dir *node, base string) (*node, unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := unix.Openat(dir.fd, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, st, err
	}
	if err := unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH); err != nil {
		_ = unix.Close(fd)
		return nil, st, err
	}
	return v.adoptNew(fd, &st, name{dir.id, base}), st, nil
}

// known returns the node of a file that is known already, with one more
// reference, or nil.
func (v *view) known(st *unix.Stat_t) *node {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.keys[keyOf(st)]
	if n != nil {
		n.refs++
	}
	return n
}

// hold adds a reference, unless the node is gone.
func (v *view) hold(n *node) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.nodes[n.id] != n {
		return false
	}
	n.refs++
	return true
}

// drop takes references away, and with the last one the node.
func (v *view) drop(n *node, refs uint64) {
	v.mu.Lock()
	n.refs -= min(refs, n.refs)
	last := n.refs == 0 && n.id != fuse.FUSE_ROOT_ID && v.nodes[n.id] == n
	if last {
		delete(v.nodes, n.id)
		if v.keys[n.key] == n {
			delete(v.keys, n.key)
		}
	}
	v.mu.Unlock()
	if last {
		_ = unix.Close(n.fd)
	}
}

// Forget is the kernel's drop.
func (v *view) Forget(id, refs uint64) {
	if n := v.node(id); n != nil {
		v.drop(n, refs)
	}
}

// rekey gives n another file beneath: one that was made in the place of its own.
func (v *view) rekey(n *node, fd int, st *unix.Stat_t) {
	k := keyOf(st)
	v.mu.Lock()
	defer v.mu.Unlock()
	defer unix.Close(fd)
	if v.nodes[n.id] != n || k.kind != n.kind || unix.Dup3(fd, n.fd, unix.O_CLOEXEC) != nil {
		return
	}
	if v.keys[n.key] == n {
		delete(v.keys, n.key)
	}
	n.key = k
	v.keys[k] = n
}

// find looks a name up beneath and returns its node with a reference more.
func (v *view) find(dir *node, base string) (*node, unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, st, err
	}
	v.unmask(dir, base, &st)
	if n := v.known(&st); n != nil {
		return n, st, nil
	}
	fd, err := unix.Openat(dir.fd, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, st, err
	}
	was := st
	if err := unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH); err != nil {
		_ = unix.Close(fd)
		return nil, st, err
	}
	if was.Mode&unix.S_IFMT == unix.S_IFSOCK && was.Ino == st.Ino && st.Mode&unix.S_IFMT == unix.S_IFREG {
		st.Mode = st.Mode&^unix.S_IFMT | unix.S_IFSOCK // unmasked above
	}
	return v.adopt(fd, &st, name{dir.id, base}), st, nil
}

// stat asks for the attributes beneath.
func (v *view) stat(n *node, st *unix.Stat_t) error {
	if err := unix.Fstatat(n.fd, "", st, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	st.Mode = st.Mode&^unix.S_IFMT | n.kind
	return nil
}

// place is where the kernel can be given the file of a node by a path: the link
// leads to the very file, whatever has become of its name.
func (n *node) place() string { return procFD(n.fd) }

func procFD(fd int) string { return "/proc/self/fd/" + itoa(fd) }

func itoa(n int) string {
	var b [20]byte
	i := len(b)
	for {
		i--
		b[i] = byte('0' + n%10)
		if n /= 10; n == 0 {
			return string(b[i:])
		}
	}
}

// release closes everything when the kernel has no more questions.
func (v *view) release() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return
	}
	v.closed = true
	for _, n := range v.nodes {
		_ = unix.Close(n.fd)
	}
	for _, h := range v.handles {
		_ = unix.Close(h.fd)
	}
	for _, d := range v.dirs {
		_ = unix.Close(d.fd)
	}
	clear(v.nodes)
	clear(v.keys)
	clear(v.handles)
	clear(v.dirs)
}

// status is what the kernel is told of an error of the system.
func status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	if e, ok := err.(unix.Errno); ok {
		return fuse.Status(e)
	}
	return fuse.Status(number(err))
}

// readlink reads where fd lies, for messages and for host paths.
func readlink(fd int) (string, error) { return os.Readlink(procFD(fd)) }
