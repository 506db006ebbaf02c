package mount

import (
	"bytes"
	"encoding/binary"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A dirHandle is a folder that is being read. Positions are the cookies of the
// file system beneath, so telldir(3) and seekdir(3) mean there what they mean
// here.
type dirHandle struct {
	fd   int
	node *node

	mu   sync.Mutex
	buf  []byte // of getdents64(2)
	rest []byte // what of it wasn't handed out
	pos  uint64 // cookie of what comes next
}

// OpenDir opens a folder for reading.
func (v *view) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n := v.node(in.NodeId)
	if n == nil {
		return fuse.EACCES
	}
	// Not as "." in it, which would take the right to search it too.
	fd, err := unix.Open(procFD(n.fd), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return status(err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lastFH++
	out.Fh = v.lastFH
	v.dirs[out.Fh] = &dirHandle{fd: fd, node: n}
	return fuse.OK
}

func (v *view) dir(fh uint64) *dirHandle {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.dirs[fh]
}

// ReleaseDir closes a folder.
func (v *view) ReleaseDir(in *fuse.ReleaseIn) {
	v.mu.Lock()
	d := v.dirs[in.Fh]
	delete(v.dirs, in.Fh)
	v.mu.Unlock()
	if d != nil {
		_ = unix.Close(d.fd)
	}
}

// FsyncDir writes a folder to the disk.
func (v *view) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	d := v.dir(in.Fh)
	if d == nil {
		return fuse.EBADF
	}
	return sync1(d.fd, in.FsyncFlags)
}

// peek returns the next entry, and false at the end. take goes past it.
func (d *dirHandle) peek(e *fuse.DirEntry) (bool, error) {
	for len(d.rest) == 0 {
		if d.buf == nil {
			d.buf = make([]byte, 32<<10)
		}
		n, err := unix.Getdents(d.fd, d.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return false, err
		}
		d.rest = d.buf[:n]
	}
	// struct linux_dirent64: inode, cookie of the next, length, type, name.
	const head = 19
	b := d.rest
	if len(b) < head {
		return false, unix.EIO
	}
	size := int(binary.NativeEndian.Uint16(b[16:]))
	if size < head || size > len(b) {
		return false, unix.EIO
	}
	name, _, _ := bytes.Cut(b[head:size], []byte{0})
	*e = fuse.DirEntry{
		Ino:  binary.NativeEndian.Uint64(b),
		Off:  binary.NativeEndian.Uint64(b[8:]),
		Mode: uint32(b[18]) << 12,
		Name: string(name),
	}
	return true, nil
}

func (d *dirHandle) take(e *fuse.DirEntry) {
	d.rest = d.rest[binary.NativeEndian.Uint16(d.rest[16:]):]
	d.pos = e.Off
}

// seek goes to where the kernel wants to go on.
func (d *dirHandle) seek(off uint64) error {
	if d.pos == off {
		return nil
	}
	d.rest = nil
	if _, err := unix.Seek(d.fd, int64(off), unix.SEEK_SET); err != nil {
		return err
	}
	d.pos = off
	return nil
}

// read calls add for each entry from off on, until it says that there is no room.
func (v *view) read(in *fuse.ReadIn, add func(d *dirHandle, e *fuse.DirEntry) bool) fuse.Status {
	d := v.dir(in.Fh)
	if d == nil {
		return fuse.EBADF
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.seek(in.Offset); err != nil {
		return status(err)
	}
	for some := false; ; some = true {
		var e fuse.DirEntry
		ok, err := d.peek(&e)
		if err != nil && !some {
			return status(err)
		}
		if err != nil || !ok || !add(d, &e) {
			return fuse.OK
		}
		d.take(&e)
	}
}

// ReadDir lists names.
func (v *view) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return v.read(in, func(_ *dirHandle, e *fuse.DirEntry) bool { return out.AddDirEntry(*e) })
}

// ReadDirPlus lists names with the answers to their lookups. Those that need a
// word from the host are left to be looked up one by one.
func (v *view) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return v.read(in, func(d *dirHandle, e *fuse.DirEntry) bool {
		entry := out.AddDirLookupEntry(*e)
		if entry == nil {
			return false
		}
		if e.Name == "." || e.Name == ".." {
			return true
		}
		n, st, err := v.findQuickly(d.node, e.Name)
		if err == nil && n != nil {
			v.told(n, d.node, e.Name)
			v.entry(n, &st, entry)
			out.FixMode(n.kind)
		}
		return true
	})
}
