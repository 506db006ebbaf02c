package mount

import (
	"crypto/rand"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"drvsock/internal/lookup"
)

// Numbers of the hidden folder, and of the inode to which those of our own
// sockets are bound that only need a name.
const (
	hiddenID   = 2
	namelessID = 3
)

// hidden is a folder of the view that this process alone can reach: it opens it
// once by a name that nobody else can know, and then the name is gone. In it,
// sockets have second names. To bind one is how this process comes to listen on
// a file of the view, to connect to one is how it reaches a program that does.
//
// It is a folder of its own since a lookup, which is when we have to bind, holds
// the lock of the folder in which it is made.
type hidden struct {
	mu   sync.Mutex
	name string // "" once it was used
	tree int    // copy of the mount, so that ours isn't busy; -1 without
	fd   int    // O_PATH, -1 if not open

	one      sync.Mutex // held while a socket is bound
	bindName string     // by this name
	binding  *node      // to this

	nameless *node
}

func newHidden(nameless *node) hidden {
	return hidden{name: ".drvsock-" + rand.Text(), tree: -1, fd: -1, nameless: nameless}
}

func (h *hidden) is(id uint64) bool { return id == hiddenID }

func (h *hidden) attr(a *fuse.Attr) {
	*a = fuse.Attr{
		Ino: ^uint64(1), Mode: unix.S_IFDIR | 0o711, Nlink: 2, Blksize: 4096,
		Owner: fuse.Owner{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())},
	}
}

// entry answers the lookup of the hidden folder itself.
func (h *hidden) entry(name string, out *fuse.EntryOut) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.name == "" || name != h.name {
		return false
	}
	out.NodeId = hiddenID
	h.attr(&out.Attr)
	out.SetAttrTimeout(time.Hour)
	return true
}

// open opens the folder in the view mounted at dir, once that is served, and asks
// for the attributes of the view's root.
func (h *hidden) open(dir string, sx *unix.Statx_t) error {
	// A copy of the mount that is nowhere mounted: what refers to it, such as a
	// socket that is bound there, doesn't keep the real one from being unmounted.
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	root := tree
	if err != nil { // for root only
		tree = -1
		if root, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("open %s: %w", dir, err)
		}
		defer unix.Close(root)
	}
	// Of the mount itself, not of its copy.
	err = alone(nil, func() error {
		return unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, sx)
	})
	fd := -1
	if err == nil {
		fd, err = openAlone(root, h.name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.name, h.tree = "", tree
	if err != nil {
		return fmt.Errorf("open the view at %s: %w", dir, err)
	}
	h.fd = fd
	return nil
}

func (h *hidden) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, fd := range []*int{&h.fd, &h.tree} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
			*fd = -1
		}
	}
}

// use calls fn with a copy of the folder's descriptor.
func (h *hidden) use(fn func(fd int) error) error {
	h.mu.Lock()
	fd, err := -1, error(unix.ENOTCONN)
	if h.fd >= 0 {
		fd, err = unix.FcntlInt(uintptr(h.fd), unix.F_DUPFD_CLOEXEC, 0)
	}
	h.mu.Unlock()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return fn(fd)
}

// bindTo binds the socket fd to the inode of n. The socket's own name, which is
// what getpeername(2) tells its clients, is name.
func (h *hidden) bindTo(n *node, name string, fd int) error {
	const room = 107 // of sun_path, with its final NUL
	if len(name) > room || name == "" {
		name = "socket"
	}
	h.one.Lock()
	defer h.one.Unlock()
	h.mu.Lock()
	h.bindName, h.binding = name, n
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.bindName, h.binding = "", nil
	}()
	return h.use(func(dir int) error {
		return alone(nil, func() error {
			if err := unix.Fchdir(dir); err != nil {
				return err
			}
			return unix.Bind(fd, &unix.SockaddrUnix{Name: name})
		}, fd, dir)
	})
}

// nameAs binds fd so that who it connects to sees it by this name. That is for
// names without a folder on Linux, such as those of Windows.
func (h *hidden) nameAs(fd int, name string) {
	const room = 107
	if name == "" || len(name) > room || strings.ContainsAny(name, "/\x00") {
		return
	}
	_ = h.bindTo(h.nameless, name, fd)
}

// door begins the names by which sockets are reached. No bind asks for one.
const door = "\x01"

// connectTo connects the socket fd, as somebody, to what is bound to the inode of
// n, which the caller holds.
func (h *hidden) connectTo(n *node, as *lookup.Task, fd int) error {
	return h.use(func(dir int) error {
		return alone(as, func() error {
			if err := unix.Fchdir(dir); err != nil {
				return err
			}
			return unix.Connect(fd, &unix.SockaddrUnix{Name: door + strconv.FormatUint(n.id, 10)})
		}, fd, dir)
	})
}

// lookup finds a name in the hidden folder.
func (h *hidden) lookup(v *view, name string, out *fuse.EntryOut) fuse.Status {
	digits, ok := strings.CutPrefix(name, door)
	if !ok {
		return fuse.ENOENT
	}
	id, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return fuse.ENOENT
	}
	n := v.node(id)
	if n == nil || !n.socket() {
		return fuse.ENOENT
	}
	return h.answer(v, n, out)
}

// bind answers the MKNOD that bindTo brings about.
func (h *hidden) bind(v *view, name string, out *fuse.EntryOut) fuse.Status {
	h.mu.Lock()
	n := h.binding
	if h.bindName != name {
		n = nil
	}
	h.mu.Unlock()
	if n == nil {
		return fuse.EPERM
	}
	return h.answer(v, n, out)
}

func (h *hidden) answer(v *view, n *node, out *fuse.EntryOut) fuse.Status {
	var st unix.Stat_t
	if err := v.stat(n, &st); err != nil {
		// The file may be gone beneath while its sockets live on.
		st = unix.Stat_t{Mode: unix.S_IFSOCK | 0o600, Uid: v.uid}
	}
	if !v.hold(n) {
		return fuse.ENOENT
	}
	v.entry(n, &st, out)
	return fuse.OK
}
