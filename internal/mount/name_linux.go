package mount

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Lookup finds a name of a folder. For a socket it is the moment at which a
// connect can still be refused, see meet.
func (v *view) Lookup(cancel <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if v.hidden.is(in.NodeId) {
		return v.hidden.lookup(v, name, out)
	}
	dir := v.node(in.NodeId)
	if dir == nil {
		return fuse.Status(unix.ESTALE)
	}
	if in.NodeId == fuse.FUSE_ROOT_ID && v.hidden.entry(name, out) {
		return fuse.OK
	}
	n, st, err := v.find(dir, name)
	if err != nil {
		return status(err)
	}
	if n.socket() {
		if err := v.meet(cancel, in, dir, name, n); err != nil {
			v.drop(n, 1)
			return fuse.Status(number(err))
		}
	}
	v.told(n, dir, name)
	v.entry(n, &st, out)
	return fuse.OK
}

// make runs fn, which makes name, as the caller and answers with what it made.
func (v *view) make(in *fuse.InHeader, umask uint32, name string, out *fuse.EntryOut, fn func(dir int) error) fuse.Status {
	dir := v.node(in.NodeId)
	if dir == nil {
		return fuse.EPERM // the hidden folder
	}
	if err := v.maker.run(in.Uid, in.Gid, umask, func() error { return fn(dir.fd) }); err != nil {
		return status(err)
	}
	n, st, err := v.findNew(dir, name)
	if err != nil {
		return status(err)
	}
	n.mu.Lock()
	n.plain = true
	n.mu.Unlock()
	v.told(n, dir, name)
	v.entry(n, &st, out)
	return fuse.OK
}

// Mknod makes a file; for a socket it is the kernel's bind(2).
func (v *view) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	if v.hidden.is(in.NodeId) {
		return v.hidden.bind(v, name, out)
	}
	if in.Mode&unix.S_IFMT == unix.S_IFSOCK {
		if st, ok := v.bind(cancel, in, name, out); ok {
			return st
		}
	}
	return v.make(&in.InHeader, in.Umask, name, out, func(dir int) error {
		return unix.Mknodat(dir, name, in.Mode, int(in.Rdev))
	})
}

// Mkdir makes a folder.
func (v *view) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	if v.full(unix.S_IFDIR) {
		return fuse.Status(unix.EMFILE)
	}
	return v.make(&in.InHeader, in.Umask, name, out, func(dir int) error { return unix.Mkdirat(dir, name, in.Mode) })
}

// Symlink makes a symbolic link.
func (v *view) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return v.make(in, 0, name, out, func(dir int) error { return unix.Symlinkat(target, dir, name) })
}

// Link makes a hard link.
func (v *view) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	dir, n := v.node(in.NodeId), v.node(in.Oldnodeid)
	if dir == nil || n == nil {
		return fuse.EPERM
	}
	if err := v.with(n, func(fd int) error {
		return unix.Linkat(unix.AT_FDCWD, procFD(fd), dir.fd, name, unix.AT_SYMLINK_FOLLOW)
	}); err != nil {
		return status(err)
	}
	var st unix.Stat_t
	if err := v.stat(n, &st); err != nil {
		return status(err)
	}
	if !v.hold(n) {
		return fuse.Status(unix.ESTALE)
	}
	v.entry(n, &st, out)
	return fuse.OK
}

// Unlink removes a name.
func (v *view) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return v.remove(in, name, 0)
}

// Rmdir removes a folder.
func (v *view) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return v.remove(in, name, unix.AT_REMOVEDIR)
}

func (v *view) remove(in *fuse.InHeader, name string, flags int) fuse.Status {
	if v.hidden.is(in.NodeId) {
		return fuse.OK // there is nothing beneath
	}
	dir := v.node(in.NodeId)
	if dir == nil {
		return fuse.Status(unix.ESTALE)
	}
	var over leaving
	if flags == 0 {
		over = v.leaves(dir, name)
	}
	err := unix.Unlinkat(dir.fd, name, flags)
	over.end(err)
	if err == nil && flags != 0 {
		v.removed(place{dir.id, name})
	}
	return status(err)
}

// leaving is a name that is about to be removed.
type leaving struct {
	v    *view
	dir  *node
	base string
	n    *node // grabbed; nil for none that is known
	sock *node // the same where it is a socket, as it has a descriptor anyway
	st   unix.Stat_t
	last bool // the file has no other name
}

// leaves looks at a name before it is removed: the kernel may go on using the
// file, which then can't be found by that name any more.
func (v *view) leaves(dir *node, name string) (l leaving) {
	l.v, l.dir, l.base = v, dir, name
	if unix.Fstatat(dir.fd, name, &l.st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return l
	}
	l.last = l.st.Nlink <= 1
	sock := l.asSocket()
	v.mu.Lock()
	l.sock = v.keys[keyOf(&sock)]
	n := v.keys[keyOf(&l.st)]
	if n != nil && n.dir == nil { // which is held anyway
		n = nil
	}
	v.mu.Unlock()
	if n != nil {
		if _, err := v.grab(n); err == nil {
			l.n = n
		}
	}
	return l
}

// asSocket is what the file shows, or would if it were shown as the socket that it
// may be.
func (l *leaving) asSocket() unix.Stat_t {
	st := l.st
	st.Mode = st.Mode&^unix.S_IFMT | unix.S_IFSOCK
	return st
}

// end is called when the name was removed, or was not for err. From then on the
// next file with the number of one that is gone is another: file systems use
// numbers again at once, and their clocks are coarse.
func (l *leaving) end(err error) {
	if err != nil {
		if l.n != nil {
			l.v.letGo(l.n)
		}
		return
	}
	if l.sock != nil {
		if b := l.sock.boundSocket(); b != nil {
			b.lost(l.dir, l.base)
		}
	}
	if !l.last {
		return
	}
	sock := l.asSocket()
	l.v.mu.Lock()
	defer l.v.mu.Unlock()
	delete(l.v.keys, keyOf(&l.st))
	delete(l.v.keys, keyOf(&sock))
}

// Rename moves a name, with the flags of renameat2(2).
func (v *view) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	a, b := v.node(in.NodeId), v.node(in.Newdir)
	if a == nil || b == nil {
		return fuse.EPERM
	}
	var over leaving
	var err error
	if in.Flags == 0 {
		over = v.leaves(b, to)
		err = unix.Renameat(a.fd, from, b.fd, to)
		over.end(err)
	} else {
		err = unix.Renameat2(a.fd, from, b.fd, to, uint(in.Flags))
	}
	if err != nil {
		return status(err)
	}
	v.renamed(place{a.id, from}, place{b.id, to}, in.Flags&unix.RENAME_EXCHANGE != 0)
	v.isAt(b, to)
	if in.Flags&unix.RENAME_EXCHANGE != 0 {
		v.isAt(a, from)
	}
	return fuse.OK
}

// isAt notes which file has a name now.
func (v *view) isAt(dir *node, base string) {
	var st unix.Stat_t
	if unix.Fstatat(dir.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return
	}
	n := v.known(&st, dir, base)
	if n == nil && v.dubious(&st) { // a socket that looks like a file
		st.Mode = st.Mode&^unix.S_IFMT | unix.S_IFSOCK
		n = v.known(&st, dir, base)
	}
	if n == nil {
		return
	}
	if b := n.boundSocket(); b != nil {
		b.moved(dir, base)
	}
	v.drop(n, 1)
}

// Readlink reads a symbolic link.
func (v *view) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	n := v.node(in.NodeId)
	if n == nil {
		return nil, fuse.EINVAL
	}
	for size := 256; ; size *= 2 {
		b := make([]byte, size)
		m := 0
		err := v.with(n, func(fd int) (err error) {
			m, err = unix.Readlinkat(fd, "", b)
			return err
		})
		if err != nil {
			return nil, status(err)
		}
		if m < size {
			return b[:m], fuse.OK
		}
	}
}

// Access is not asked with default_permissions.
func (v *view) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }
