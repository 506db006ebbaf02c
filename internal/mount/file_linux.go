package mount

import (
	"os"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A handle is an open file.
type handle struct {
	fd     int
	tail   int // the same file for appending, -1 without
	node   *node
	passed bool // counted in node.backing as passed through
	// appends says that we find out where the end is, for who can do nothing else
	// than append. The kernel knows only where it was up to a second ago: what the
	// host has appended since would be written over. Its pages must not hold what is
	// written then, as they would have it in the wrong place.
	appends bool
}

func (v *view) handle(fh uint64) *handle {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.handles[fh]
}

// openFlags are those that the file beneath is opened with. Without O_APPEND, with
// which pages of a mapping would be written behind the end; see handle.appends. O_DIRECT would ask for buffers that we don't have. Both are in force where
// the kernel passes a file's bytes through.
func openFlags(flags uint32) int {
	const not = unix.O_APPEND | unix.O_DIRECT | unix.O_NOFOLLOW | unix.O_CREAT | unix.O_EXCL | unix.O_TRUNC | unix.O_NONBLOCK | unix.O_NOCTTY
	return int(flags)&^not | unix.O_CLOEXEC
}

// opened registers an open file, whose node was grabbed, and answers the kernel.
func (v *view) opened(fd int, n *node, flags uint32, out *fuse.OpenOut) fuse.Status {
	h := &handle{fd: fd, tail: -1, node: n}
	if id, ok := n.backing.open(v, fd); ok {
		h.passed = true
		out.BackingID = id
		out.OpenFlags |= fuse.FOPEN_PASSTHROUGH
	} else {
		if n.unchanged(fd) {
			out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
		}
		if h.appends = flags&(unix.O_APPEND|unix.O_ACCMODE) == unix.O_APPEND|unix.O_WRONLY; h.appends {
			out.OpenFlags |= fuse.FOPEN_DIRECT_IO
			h.tail = tailOf(fd, flags)
		}
	}
	v.mu.Lock()
	v.lastFH++
	out.Fh = v.lastFH
	v.handles[out.Fh] = h
	v.mu.Unlock()
	return fuse.OK
}

// tailOf opens the file fd once more, to append to it.
func tailOf(fd int, flags uint32) int {
	tail, err := unix.Open(procFD(fd), openFlags(flags)|unix.O_APPEND, 0)
	if err != nil {
		return -1 // made without the right to open it again
	}
	return tail
}

func (h *handle) close() {
	_ = unix.Close(h.fd)
	if h.tail >= 0 {
		_ = unix.Close(h.tail)
	}
}

// write writes what a program has written, or pages of a mapping that somebody
// else has of the file.
func (h *handle) write(in *fuse.WriteIn, b []byte, off int64) (int, error) {
	switch {
	case !h.appends || in.Flags&unix.O_APPEND == 0 || in.WriteFlags&fuse.WRITE_CACHE != 0:
		return unix.Pwrite(h.fd, b, off)
	}
	if err := h.unsetID(in.Uid); err != nil {
		return 0, err
	}
	if h.tail >= 0 {
		return unix.Write(h.tail, b)
	}
	return unix.Pwritev2(h.fd, [][]byte{b}, off, unix.RWF_APPEND)
}

// unsetID takes the set-id bits off a file that is written to by another than
// root. Where no pages are written the kernel leaves that to the file system, and
// the one beneath lets root keep them.
func (h *handle) unsetID(uid uint32) error {
	if uid == 0 || os.Geteuid() != 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(h.fd, &st); err != nil {
		return err
	}
	mode := st.Mode & 0o7777
	const group = unix.S_ISGID | unix.S_IXGRP
	if mode&group == group {
		mode &^= unix.S_ISGID
	}
	if mode &^= unix.S_ISUID; mode == st.Mode&0o7777 {
		return nil
	}
	return unix.Fchmod(h.fd, mode)
}

// A stamp is what changes with a file's content.
type stamp struct {
	size         int64
	mtime, ctime unix.Timespec
}

// settled is how old a change has to be, so that the next one can't have the same
// time: clocks of file systems are coarse.
const settled = 2 * time.Second

// unchanged tells if the file is what it was when it was last opened, so that what
// the kernel has read of it since is good. A change while the file is open shows
// in its attributes, which the kernel heeds itself (FUSE_AUTO_INVAL_DATA).
func (n *node) unchanged(fd int) bool {
	var st unix.Stat_t
	var now stamp
	if unix.Fstat(fd, &st) == nil && time.Since(time.Unix(st.Mtim.Unix())) > settled {
		now = stamp{st.Size, st.Mtim, st.Ctim}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	same := now == n.opened && now != stamp{}
	n.opened = now
	return same
}

// Open opens a file; the kernel has checked that the caller may.
func (v *view) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n := v.node(in.NodeId)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	path, err := v.grab(n)
	if err != nil {
		return status(err)
	}
	fd, err := unix.Open(procFD(path), openFlags(in.Flags), 0)
	if err != nil {
		v.letGo(n)
		return status(err)
	}
	return v.opened(fd, n, in.Flags, out)
}

// Create makes a file and opens it. One that somebody made meanwhile is not
// opened, since nobody asked if the caller may: for ESTALE the kernel looks the
// name up again.
func (v *view) Create(_ <-chan struct{}, in *fuse.CreateIn, base string, out *fuse.CreateOut) fuse.Status {
	flags := openFlags(in.Flags) | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW
	return v.create(in, out, base, func(dir int) (int, error) {
		fd, err := unix.Openat(dir, base, flags, in.Mode)
		if err == unix.EEXIST && in.Flags&unix.O_EXCL == 0 {
			err = unix.ESTALE
		}
		return fd, err
	})
}

// Tmpfile makes a file without a name and opens it.
func (v *view) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	flags := openFlags(in.Flags) | unix.O_TMPFILE | int(in.Flags)&unix.O_EXCL
	return v.create(in, out, "", func(dir int) (int, error) { return unix.Openat(dir, ".", flags, in.Mode) })
}

func (v *view) create(in *fuse.CreateIn, out *fuse.CreateOut, base string, fn func(dir int) (int, error)) fuse.Status {
	dir := v.node(in.NodeId)
	if dir == nil {
		return fuse.EPERM
	}
	fd := -1
	err := v.maker.run(in.Uid, in.Gid, in.Umask, func() (err error) {
		fd, err = fn(dir.fd)
		return err
	})
	if err != nil {
		return status(err)
	}
	var st unix.Stat_t
	path, err := unix.Open(procFD(fd), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err != nil {
		_ = unix.Close(fd)
		return status(err)
	}
	var n *node
	if base == "" { // nothing leads to it
		n = v.adoptNew(path, &st, dir, base)
	} else {
		n = v.adoptNew(-1, &st, dir, base)
	}
	v.lend(n, path)
	n.mu.Lock()
	n.plain = true
	n.mu.Unlock()
	v.entry(n, &st, &out.EntryOut)
	return v.opened(fd, n, in.Flags, &out.OpenOut)
}

// Release closes a file.
func (v *view) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	v.mu.Lock()
	h := v.handles[in.Fh]
	delete(v.handles, in.Fh)
	v.mu.Unlock()
	if h != nil {
		h.node.backing.close(v, h.passed)
		h.close()
		v.letGo(h.node)
	}
}

// Read reads; the bytes go from file to kernel by splice(2) where that works.
func (v *view) Read(_ <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	h := v.handle(in.Fh)
	if h == nil {
		return nil, fuse.EBADF
	}
	return fuse.ReadResultFd(uintptr(h.fd), int64(in.Offset), int(in.Size)), fuse.OK
}

// Writev writes all of data.
func (v *view) Writev(_ <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	h := v.handle(in.Fh)
	if h == nil {
		return 0, fuse.EBADF
	}
	done := int64(0)
	for _, b := range data {
		for len(b) > 0 {
			n, err := h.write(in, b, int64(in.Offset)+done)
			switch {
			case err == unix.EINTR:
			case err != nil && done == 0:
				return 0, status(err)
			case err != nil || n == 0:
				return uint32(done), fuse.OK
			default:
				done += int64(n)
				b = b[n:]
			}
		}
	}
	return uint32(done), fuse.OK
}

// CopyFileRange copies within the file system beneath.
func (v *view) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	from, to := v.handle(in.FhIn), v.handle(in.FhOut)
	if from == nil || to == nil {
		return 0, fuse.EBADF
	}
	r, w := int64(in.OffIn), int64(in.OffOut)
	n, err := unix.CopyFileRange(from.fd, &r, to.fd, &w, int(min(in.Len, 1<<30)), int(in.Flags))
	return uint32(max(n, 0)), status(err)
}

// Flush is a close(2) by one of those who have the file open: where the file
// system beneath reports what went wrong then, the caller hears of it.
func (v *view) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	h := v.handle(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	fd, err := unix.FcntlInt(uintptr(h.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return status(err)
	}
	return status(unix.Close(fd))
}

const onlyData = 1 // FUSE_FSYNC_FDATASYNC

func sync1(fd int, flags uint32) fuse.Status {
	if flags&onlyData != 0 {
		return status(unix.Fdatasync(fd))
	}
	return status(unix.Fsync(fd))
}

// Fsync writes a file to the disk.
func (v *view) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h := v.handle(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	return sync1(h.fd, in.FsyncFlags)
}

// Fallocate makes room, or holes.
func (v *view) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	h := v.handle(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	return status(unix.Fallocate(h.fd, in.Mode, int64(in.Offset), int64(in.Length)))
}

// Lseek finds data and holes.
func (v *view) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	h := v.handle(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	off, err := unix.Seek(h.fd, int64(in.Offset), int(in.Whence))
	out.Offset = uint64(max(off, 0))
	return status(err)
}

// Ioctl knows none.
func (v *view) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.Status(unix.ENOTTY)
}

// backing is how the kernel reads and writes a file by itself. All opens of one
// file do it in the same way, or the kernel refuses the later ones.
type backing struct {
	mu     sync.Mutex
	id     int32
	passed int // open handles by way of id
	others int // open handles that go through us
}

// open tells whether the handle fd shall be passed through, and by which id.
func (b *backing) open(v *view, fd int) (int32, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.passed > 0 {
		b.passed++
		return b.id, true
	}
	if b.others == 0 && v.passes() {
		id, e := v.server.RegisterBackingFd(&fuse.BackingMap{Fd: int32(fd)})
		if e == 0 {
			b.id, b.passed = id, 1
			return id, true
		}
		v.log.Debug("no passthrough for a file", "err", e)
	}
	b.others++
	return 0, false
}

func (b *backing) close(v *view, passed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !passed {
		b.others--
		return
	}
	if b.passed--; b.passed == 0 {
		v.server.UnregisterBackingFd(b.id)
	}
}

// passes tells whether the kernel and our rights allow passthrough.
func (v *view) passes() bool {
	return v.uid == 0 && !v.copies && v.server != nil && v.server.KernelSettings().Flags64()&fuse.CAP_PASSTHROUGH != 0
}
