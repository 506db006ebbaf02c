package standin

import (
	"context"
	"path/filepath"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A node is a file of the folder beneath, with the manners of opts.
type node struct {
	fs.LoopbackNode
	opts *Options
}

var (
	_ fs.NodeMknoder        = (*node)(nil)
	_ fs.NodeMkdirer        = (*node)(nil)
	_ fs.NodeCreater        = (*node)(nil)
	_ fs.NodeLookuper       = (*node)(nil)
	_ fs.NodeGetattrer      = (*node)(nil)
	_ fs.NodeSetattrer      = (*node)(nil)
	_ fs.NodeStatxer        = (*node)(nil)
	_ fs.NodeOpendirHandler = (*node)(nil)
)

func newRoot(dir string, opts Options) (fs.InodeEmbedder, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return nil, err
	}
	data := &fs.LoopbackRoot{Path: dir, Dev: st.Dev}
	//lint:ignore SA1019 NodeWrapChilder is asked after the inode has its type.
	data.NewNode = func(data *fs.LoopbackRoot, _ *fs.Inode, _ string, st *syscall.Stat_t) fs.InodeEmbedder {
		if st.Mode&syscall.S_IFMT == syscall.S_IFSOCK && !opts.ShowSockets && !opts.Metadata {
			// The library takes the type that the kernel is told, now and in
			// every later answer on this inode, from st after this call.
			st.Mode = st.Mode&^syscall.S_IFMT | syscall.S_IFREG
		}
		return &node{LoopbackNode: fs.LoopbackNode{RootData: data}, opts: &opts}
	}
	root := &node{LoopbackNode: fs.LoopbackNode{RootData: data}, opts: &opts}
	data.RootNode = root
	return root, nil
}

// path returns where name of this folder lies beneath.
func (n *node) path(name string) string {
	return filepath.Join(n.RootData.Path, n.Path(n.RootData.RootNode.EmbeddedInode()), name)
}

// fix lays the fixed owner and mode over what the file beneath has.
func (n *node) fix(attr *fuse.Attr) {
	if f := n.opts.Fixed; f != nil {
		attr.Uid, attr.Gid = f.UID, f.GID
		attr.Mode = attr.Mode&syscall.S_IFMT | 0o777&^f.Umask
	}
}

// Mknod refuses special files, sockets above all: bind comes as a MKNOD.
func (n *node) Mknod(ctx context.Context, name string, mode, rdev uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if kind := mode & syscall.S_IFMT; kind != 0 && kind != syscall.S_IFREG && !n.opts.Metadata {
		if n.opts.Refusal != 0 {
			return nil, n.opts.Refusal
		}
		return nil, syscall.EOPNOTSUPP
	}
	ino, errno := n.LoopbackNode.Mknod(ctx, name, mode, rdev, out)
	n.made(name, mode, &out.Attr, errno)
	return ino, errno
}

// Mkdir makes a folder.
func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	ino, errno := n.LoopbackNode.Mkdir(ctx, name, mode, out)
	n.made(name, mode, &out.Attr, errno)
	return ino, errno
}

// Create makes and opens a regular file.
func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	// O_TRUNC and O_EXCL stay; a file that is there already keeps its mode.
	var before syscall.Stat_t
	fresh := syscall.Lstat(n.path(name), &before) == syscall.ENOENT
	ino, fh, fl, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if fresh {
		n.made(name, mode, &out.Attr, errno)
	} else {
		n.fix(&out.Attr)
	}
	return ino, fh, fl, errno
}

// made gives a new file the very mode that its maker asked for: the kernel took
// the maker's umask off already, and this process's has no say.
func (n *node) made(name string, mode uint32, attr *fuse.Attr, errno syscall.Errno) {
	if errno != 0 {
		return
	}
	// A folder inherits the set-group-id bit without being asked (inode(7)).
	if want := mode&0o7777 | attr.Mode&syscall.S_ISGID; want != attr.Mode&0o7777 {
		if unix.Fchmodat(unix.AT_FDCWD, n.path(name), want, 0) == nil {
			attr.Mode = attr.Mode&^0o7777 | want
		}
	}
	n.fix(attr)
}

// Symlink makes a symbolic link.
func (n *node) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	ino, errno := n.LoopbackNode.Symlink(ctx, target, name, out)
	n.fix(&out.Attr)
	return ino, errno
}

// Link makes a hard link.
func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	ino, errno := n.LoopbackNode.Link(ctx, target, name, out)
	n.fix(&out.Attr)
	return ino, errno
}

// Lookup finds a name of this folder.
func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	ino, errno := n.LoopbackNode.Lookup(ctx, name, out)
	n.fix(&out.Attr)
	return ino, errno
}

// Getattr tells the attributes of a file.
func (n *node) Getattr(ctx context.Context, f fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	errno := n.LoopbackNode.Getattr(ctx, f, out)
	n.fix(&out.Attr)
	return errno
}

// Statx refuses, so that the kernel asks Getattr and there is one answer.
func (n *node) Statx(context.Context, fs.FileHandle, uint32, uint32, *fuse.StatxOut) syscall.Errno {
	return syscall.ENOSYS
}

// Setattr changes attributes, but for owner and mode where these are fixed.
func (n *node) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if n.opts.Fixed != nil {
		in.Valid &^= fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID
	}
	errno := n.LoopbackNode.Setattr(ctx, f, in, out)
	n.fix(&out.Attr)
	return errno
}
