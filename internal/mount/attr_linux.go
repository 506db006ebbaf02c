package mount

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// fresh is how long the kernel may show names and attributes without asking
// again, as the host changes them without our knowledge. Names of sockets are
// asked for each time, as connect begins with that question.
const fresh = time.Second

// number is what a file is known by. Files of other file systems that are
// mounted beneath are told apart by it, as there is one device for all.
func (v *view) number(dev, ino uint64) uint64 {
	if dev != v.dev {
		ino ^= (dev ^ v.dev) * 0x9e3779b97f4a7c15
	}
	return ino
}

// fill translates attributes. A socket keeps its number, even where its file was
// made anew: the kernel finds what is bound to an inode by that.
func (v *view) fill(n *node, st *unix.Stat_t, a *fuse.Attr) {
	ino := v.number(uint64(st.Dev), st.Ino)
	if n.socket() {
		ino = n.ino
	}
	mode, owner := v.show(st.Mode, fuse.Owner{Uid: st.Uid, Gid: st.Gid})
	*a = fuse.Attr{
		Ino: ino, Size: uint64(st.Size), Blocks: uint64(st.Blocks),
		Atime: uint64(st.Atim.Sec), Atimensec: uint32(st.Atim.Nsec),
		Mtime: uint64(st.Mtim.Sec), Mtimensec: uint32(st.Mtim.Nsec),
		Ctime: uint64(st.Ctim.Sec), Ctimensec: uint32(st.Ctim.Nsec),
		Mode: mode, Nlink: uint32(st.Nlink), Owner: owner,
		Rdev: uint32(st.Rdev), Blksize: uint32(st.Blksize),
	}
}

// entry answers a lookup. The reference that n was returned with is the
// kernel's now.
func (v *view) entry(n *node, st *unix.Stat_t, out *fuse.EntryOut) {
	out.NodeId = n.id
	v.fill(n, st, &out.Attr)
	out.Attr.Mode = out.Attr.Mode&^unix.S_IFMT | n.kind
	out.SetAttrTimeout(fresh)
	if !n.socket() {
		out.SetEntryTimeout(fresh)
	}
}

// GetAttr tells the attributes of a file.
func (v *view) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if v.hidden.is(in.NodeId) {
		v.hidden.attr(&out.Attr)
		out.SetTimeout(time.Hour)
		return fuse.OK
	}
	n := v.node(in.NodeId)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	var st unix.Stat_t
	if err := v.stat(n, &st); err != nil {
		return status(err)
	}
	v.fill(n, &st, &out.Attr)
	out.SetTimeout(fresh)
	return fuse.OK
}

// Statx is GetAttr with the time of birth.
func (v *view) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	n := v.node(in.NodeId)
	if n == nil {
		return fuse.ENOSYS // the hidden folder; GetAttr answers
	}
	var sx unix.Statx_t
	if err := v.with(n, func(fd int) error { return unix.Statx(fd, "", unix.AT_EMPTY_PATH, int(in.SxMask), &sx) }); err != nil {
		return status(err)
	}
	out.Statx.FromStatx(&sx)
	mode, owner := v.show(uint32(sx.Mode), fuse.Owner{Uid: sx.Uid, Gid: sx.Gid})
	out.Statx.Mode, out.Statx.Uid, out.Statx.Gid = uint16(mode&^unix.S_IFMT|n.kind), owner.Uid, owner.Gid
	out.Statx.Ino = v.number(unix.Mkdev(sx.Dev_major, sx.Dev_minor), sx.Ino)
	if n.socket() {
		out.Statx.Ino = n.ino
	}
	out.SetTimeout(fresh)
	return fuse.OK
}

// SetAttr changes attributes; the kernel has checked that the caller may.
func (v *view) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := v.node(in.NodeId)
	if n == nil {
		return fuse.EPERM
	}
	if err := v.with(n, func(fd int) error { return v.set(n, fd, in) }); err != nil {
		return status(err)
	}
	var st unix.Stat_t
	if err := v.stat(n, &st); err != nil {
		return status(err)
	}
	if b := n.boundSocket(); b != nil {
		b.mu.Lock()
		b.now = accessOf(&st)
		b.mu.Unlock()
	}
	v.fill(n, &st, &out.Attr)
	out.SetTimeout(fresh)
	return fuse.OK
}

// set changes the attributes of n, whose descriptor is fd.
func (v *view) set(n *node, fd int, in *fuse.SetAttrIn) error {
	uid, hasUID := in.GetUID()
	gid, hasGID := in.GetGID()
	if hasUID || hasGID {
		u, g := -1, -1
		if hasUID {
			u = int(uid)
		}
		if hasGID {
			g = int(gid)
		}
		if err := unix.Fchownat(fd, "", u, g, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	if size, ok := in.GetSize(); ok {
		if err := v.truncate(fd, in, int64(size)); err != nil {
			return err
		}
	}
	// After the owner and the size, whose change takes the set-id bits off.
	if mode, ok := in.GetMode(); ok {
		if err := unix.Fchmodat(unix.AT_FDCWD, procFD(fd), mode, 0); err != nil {
			return err
		}
	}
	if in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) == 0 {
		return nil
	}
	ts := [2]unix.Timespec{
		timespec(in.Valid, fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec),
		timespec(in.Valid, fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec),
	}
	err := unix.UtimesNanoAt(fd, "", ts[:], unix.AT_EMPTY_PATH)
	if err == unix.EINVAL || err == unix.ENOENT { // before Linux 5.8
		err = unix.UtimesNanoAt(unix.AT_FDCWD, procFD(fd), ts[:], 0)
	}
	if err == nil && n.socket() {
		v.retime(n)
	}
	return err
}

func timespec(valid, set, now uint32, sec uint64, nsec uint32) unix.Timespec {
	switch {
	case valid&set == 0:
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	case valid&now != 0:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	return unix.Timespec{Sec: int64(sec), Nsec: int64(nsec)}
}

// retime keeps a socket known by the time that was just set.
func (v *view) retime(n *node) {
	var st unix.Stat_t
	if v.stat(n, &st) != nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.keys[n.key] == n {
		delete(v.keys, n.key)
		n.key = keyOf(&st)
		v.keys[n.key] = n
	}
}

func (v *view) truncate(fd int, in *fuse.SetAttrIn, size int64) error {
	if fh, ok := in.GetFh(); ok {
		if h := v.handle(fh); h != nil {
			return unix.Ftruncate(h.fd, size)
		}
	}
	return unix.Truncate(procFD(fd), size)
}

// StatFs tells about the file system beneath.
func (v *view) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	n := v.node(in.NodeId)
	if n == nil {
		n = v.root()
	}
	var st unix.Statfs_t
	if err := v.with(n, func(fd int) error { return unix.Fstatfs(fd, &st) }); err != nil {
		return status(err)
	}
	*out = fuse.StatfsOut{
		Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail, Files: st.Files, Ffree: st.Ffree,
		Bsize: uint32(st.Bsize), NameLen: uint32(st.Namelen), Frsize: uint32(st.Frsize),
	}
	return fuse.OK
}
