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
	if err := unix.Linkat(unix.AT_FDCWD, n.place(), dir.fd, name, unix.AT_SYMLINK_FOLLOW); err != nil {
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
	var st unix.Stat_t
	known := flags == 0 && unix.Fstatat(dir.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Nlink <= 1
	err := unix.Unlinkat(dir.fd, name, flags)
	if err == nil && known {
		v.removed(&st)
	}
	return status(err)
}

// removed has the next file with the number of a socket that is gone be another:
// file systems use numbers again at once, and their clocks are coarse.
func (v *view) removed(st *unix.Stat_t) {
	sock := *st
	sock.Mode = st.Mode&^unix.S_IFMT | unix.S_IFSOCK
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.keys, keyOf(&sock))
}

// Rename moves a name, with the flags of renameat2(2).
func (v *view) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	a, b := v.node(in.NodeId), v.node(in.Newdir)
	if a == nil || b == nil {
		return fuse.EPERM
	}
	if in.Flags == 0 {
		return status(unix.Renameat(a.fd, from, b.fd, to))
	}
	return status(unix.Renameat2(a.fd, from, b.fd, to, uint(in.Flags)))
}

// Readlink reads a symbolic link.
func (v *view) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	n := v.node(in.NodeId)
	if n == nil {
		return nil, fuse.EINVAL
	}
	for size := 256; ; size *= 2 {
		b := make([]byte, size)
		m, err := unix.Readlinkat(n.fd, "", b)
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
