package mount

import (
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

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
//
// Folders and sockets are held by a descriptor. There may be very many of the
// rest, so they are known by folder and name and opened for each use; what is
// then found under the name has to be the file with the node's key, or the
// kernel is told ESTALE and looks again. A file that is open, or loses its name
// by way of the view, is held as well.
type node struct {
	id   uint64
	kind uint32 // S_IFMT, as the kernel is told
	ino  uint64 // number of the file as it was found
	key  key    // under which it is in keys, unless that is another's by now

	// Guarded by view.mu, as is key.
	refs  uint64 // that the kernel has, and those of our own
	fd    int    // O_PATH descriptor of the file beneath, owned; -1 without
	users int    // who needs fd
	dir   *node  // where it was found last, held; nil for what always has fd
	base  string // its name there

	place   place // of a folder, as a key of view.folders
	backing backing

	mu     sync.Mutex
	opened stamp  // as it was when it was opened last, if that is known
	plain  bool   // an empty file that the host says is no socket
	guest  *bound // a program's socket that was bound to it, closed or not
	host   *met   // our listener, where the socket is the host's
}

// A place is a name in a folder.
type place struct {
	dir  uint64 // node's id
	base string
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
	copies  bool   // never have the kernel pass bytes through, for a test
	asks    bool   // the folder beneath may show sockets as files
	maker   *maker
	hidden  hidden
	sockets *sockets
	server  *fuse.Server
	joins   atomic.Int64 // connections with host programs

	mu      sync.Mutex
	nodes   map[uint64]*node
	keys    map[key]*node
	folders map[place]*node // where the kernel has folders
	lastID  uint64
	held    int  // nodes that have a descriptor for good
	most    int  // of those, folders at first
	spare   int  // what is left then
	scarce  bool // there were more, and it was said
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

// held tells if files of this kind always have a descriptor.
func held(kind uint32) bool { return kind == unix.S_IFDIR || kind == unix.S_IFSOCK }

// adopt returns the node of a file with attributes st, found under a name, with
// one more reference. It takes over fd, an O_PATH descriptor of the file, or -1
// for a file that can be opened by its name.
func (v *view) adopt(fd int, st *unix.Stat_t, dir *node, base string) *node {
	k := keyOf(st)
	v.mu.Lock()
	n := v.keys[k]
	var left []int // descriptors that nobody needs
	if n != nil {
		if fd >= 0 {
			left = append(left, fd)
		}
		n.refs++
		left = v.moved(n, dir, base, left)
	} else {
		v.lastID++
		n = &node{id: v.lastID, kind: k.kind, fd: fd, ino: v.number(k.dev, k.ino), key: k, refs: 1}
		if fd >= 0 {
			n.users = 1 // for good
			v.held++
		} else {
			dir.refs++
			n.dir, n.base = dir, base
		}
		v.nodes[n.id], v.keys[k] = n, n
	}
	v.mu.Unlock()
	closeAll(left)
	return n
}

// moved notes where n is to be found from now on; v.mu is held. It adds to left
// what is to be closed afterwards.
func (v *view) moved(n, dir *node, base string, left []int) []int {
	if n.dir == nil || n.dir == dir && n.base == base {
		return left
	}
	old := n.dir
	dir.refs++
	n.dir, n.base = dir, base
	return v.dropped(old, 1, left)
}

// adoptNew is adopt for a file that was just made: what is known by its key is
// one that is gone.
func (v *view) adoptNew(fd int, st *unix.Stat_t, dir *node, base string) *node {
	v.mu.Lock()
	delete(v.keys, keyOf(st))
	v.mu.Unlock()
	return v.adopt(fd, st, dir, base)
}

// found adopts the file that is named base in dir. adopt is one of the two
// functions of that name.
func (v *view) found(dir *node, base string, was *unix.Stat_t, adopt func(int, *unix.Stat_t, *node, string) *node) (*node, unix.Stat_t, error) {
	if !held(was.Mode & unix.S_IFMT) {
		return adopt(-1, was, dir, base), *was, nil
	}
	var st unix.Stat_t
	if v.full(was.Mode & unix.S_IFMT) {
		return nil, st, unix.EMFILE
	}
	fd, err := openPath(dir.fd, base, &st)
	if err != nil {
		return nil, st, err
	}
	if was.Mode&unix.S_IFMT == unix.S_IFSOCK && was.Ino == st.Ino && st.Mode&unix.S_IFMT == unix.S_IFREG {
		st.Mode = st.Mode&^unix.S_IFMT | unix.S_IFSOCK // it was unmasked
	}
	if !held(st.Mode & unix.S_IFMT) { // it is another by now
		_ = unix.Close(fd)
		fd = -1
	}
	return adopt(fd, &st, dir, base), st, nil
}

// known returns the node of a file that is known already, found under a name,
// with one more reference, or nil.
func (v *view) known(st *unix.Stat_t, dir *node, base string) *node {
	var left []int
	v.mu.Lock()
	n := v.keys[keyOf(st)]
	if n != nil {
		n.refs++
		left = v.moved(n, dir, base, nil)
	}
	v.mu.Unlock()
	closeAll(left)
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
	left := v.dropped(n, refs, nil)
	v.mu.Unlock()
	closeAll(left)
}

// dropped is drop with v.mu held; it adds to left what is to be closed
// afterwards.
func (v *view) dropped(n *node, refs uint64, left []int) []int {
	for n != nil {
		n.refs -= min(refs, n.refs)
		if n.refs > 0 || n.id == fuse.FUSE_ROOT_ID || v.nodes[n.id] != n {
			break
		}
		delete(v.nodes, n.id)
		if v.keys[n.key] == n {
			delete(v.keys, n.key)
		}
		v.place(nil, n.place)
		if n.dir == nil {
			v.held--
		}
		if n.fd >= 0 {
			left = append(left, n.fd)
			n.fd = -1
		}
		dir := n.dir
		n.dir = nil
		n, refs = dir, 1
	}
	return left
}

// told notes that the kernel is told of n as base in dir.
func (v *view) told(n, dir *node, base string) {
	if n.kind != unix.S_IFDIR {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.place(n, place{dir.id, base})
}

// place notes that the kernel has the folder n, or nil for none, at p; v.mu is held.
// A folder is at one place at a time.
func (v *view) place(n *node, p place) {
	if was := v.folders[p]; was != nil {
		was.place = place{}
		delete(v.folders, p)
	}
	if n != nil {
		delete(v.folders, n.place)
		n.place, v.folders[p] = p, n
	}
}

// removed is called when the folder at p was removed by way of the view. The kernel
// has no more use for the one that it has there, even if the host had put another
// in its place and that was removed: whoever finds the first one again, where the
// host has moved it, is to be given another node.
func (v *view) removed(p place) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.folders[p]
	if n == nil {
		return
	}
	v.place(nil, p)
	if v.keys[n.key] == n {
		delete(v.keys, n.key)
	}
}

// renamed is called when from became to by way of the view, or with both the two
// were exchanged.
func (v *view) renamed(from, to place, both bool) {
	if !both {
		v.removed(to)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	a, b := v.folders[from], v.folders[to]
	v.place(nil, from)
	v.place(a, to)
	if b != nil {
		v.place(b, from)
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
	if n := v.known(&st, dir, base); n != nil {
		return n, st, nil
	}
	return v.found(dir, base, &st, v.adopt)
}

// findNew is find for a file that was just made.
func (v *view) findNew(dir *node, base string) (*node, unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, st, err
	}
	return v.found(dir, base, &st, v.adoptNew)
}

// stat asks for the attributes beneath.
func (v *view) stat(n *node, st *unix.Stat_t) error {
	v.mu.Lock()
	fd, dir, base, want := n.fd, n.dir, n.base, n.key
	if fd >= 0 {
		n.users++
	}
	v.mu.Unlock()
	switch {
	case fd >= 0:
		defer v.letGo(n)
		if err := unix.Fstatat(fd, "", st, unix.AT_EMPTY_PATH); err != nil {
			return err
		}
	case dir == nil:
		return unix.ESTALE
	default:
		if err := unix.Fstatat(dir.fd, base, st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return gone(err)
		}
		if keyOf(st) != want {
			return unix.ESTALE
		}
	}
	st.Mode = st.Mode&^unix.S_IFMT | n.kind
	return nil
}

// procFD is where the kernel can be given the file of a descriptor by a path: the
// link leads to the very file, whatever has become of its name.
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
		if n.fd >= 0 {
			_ = unix.Close(n.fd)
			n.fd = -1
		}
	}
	for _, h := range v.handles {
		h.close()
	}
	for _, d := range v.dirs {
		_ = unix.Close(d.fd)
	}
	clear(v.nodes)
	clear(v.keys)
	clear(v.folders)
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
