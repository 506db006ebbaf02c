package standin

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"drvsock/internal/drive"
)

// escaped turns the names that the kernel asks for into those on the host's
// disk, before the tree of nodes sees them. The way back is dirNames.
type escaped struct{ fuse.RawFileSystem }

func escape(name string) string { return string(drive.EscapeName([]byte(name))) }

// Lookup and the methods below pass on with the name on disk.
func (e *escaped) Lookup(c <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	return e.RawFileSystem.Lookup(c, h, escape(name), out)
}

// Mknod makes a node.
func (e *escaped) Mknod(c <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return e.RawFileSystem.Mknod(c, in, escape(name), out)
}

// Mkdir makes a folder.
func (e *escaped) Mkdir(c <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return e.RawFileSystem.Mkdir(c, in, escape(name), out)
}

// Unlink removes a file.
func (e *escaped) Unlink(c <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return e.RawFileSystem.Unlink(c, h, escape(name))
}

// Rmdir removes a folder.
func (e *escaped) Rmdir(c <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return e.RawFileSystem.Rmdir(c, h, escape(name))
}

// Rename moves a file.
func (e *escaped) Rename(c <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	return e.RawFileSystem.Rename(c, in, escape(from), escape(to))
}

// Link makes a hard link.
func (e *escaped) Link(c <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	return e.RawFileSystem.Link(c, in, escape(name), out)
}

// Symlink makes a symbolic link; its target is no name and stays as it is.
func (e *escaped) Symlink(c <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return e.RawFileSystem.Symlink(c, h, target, escape(name), out)
}

// Create makes and opens a file.
func (e *escaped) Create(c <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	return e.RawFileSystem.Create(c, in, escape(name), out)
}

type dirStream interface {
	fs.FileReaddirenter
	fs.FileSeekdirer
	fs.FileReleasedirer
}

// dirNames lists a folder with the names that the guest sees.
type dirNames struct{ ds dirStream }

// OpendirHandle opens a folder for listing.
func (n *node) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	fh, fl, errno := n.LoopbackNode.OpendirHandle(ctx, flags)
	if errno != 0 || !n.opts.EscapeNames {
		return fh, fl, errno
	}
	ds, ok := fh.(dirStream)
	if !ok {
		return nil, 0, syscall.EIO
	}
	return &dirNames{ds}, fl, 0
}

// Readdirent returns the next entry under the guest's name.
func (d *dirNames) Readdirent(ctx context.Context) (*fuse.DirEntry, syscall.Errno) {
	e, errno := d.ds.Readdirent(ctx)
	if e != nil {
		e.Name = string(drive.UnescapeName([]byte(e.Name)))
	}
	return e, errno
}

// Seekdir goes on from off.
func (d *dirNames) Seekdir(ctx context.Context, off uint64) syscall.Errno {
	return d.ds.Seekdir(ctx, off)
}

// Releasedir closes the listing.
func (d *dirNames) Releasedir(ctx context.Context, flags uint32) { d.ds.Releasedir(ctx, flags) }
