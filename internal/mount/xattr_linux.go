package mount

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// GetXAttr reads an extended attribute.
func (v *view) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	n := v.node(in.NodeId)
	if n == nil {
		return 0, fuse.ENODATA
	}
	size, err := unix.Getxattr(n.place(), name, dest)
	return uint32(max(size, 0)), status(err)
}

// ListXAttr lists extended attributes.
func (v *view) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n := v.node(in.NodeId)
	if n == nil {
		return 0, fuse.OK
	}
	size, err := unix.Listxattr(n.place(), dest)
	return uint32(max(size, 0)), status(err)
}

// SetXAttr sets an extended attribute.
func (v *view) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, data []byte) fuse.Status {
	n := v.node(in.NodeId)
	if n == nil {
		return fuse.EPERM
	}
	return status(unix.Setxattr(n.place(), name, data, int(in.Flags)))
}

// RemoveXAttr removes an extended attribute.
func (v *view) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	n := v.node(in.NodeId)
	if n == nil {
		return fuse.EPERM
	}
	return status(unix.Removexattr(n.place(), name))
}
