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
	size := 0
	err := v.with(n, func(fd int) (err error) {
		size, err = unix.Getxattr(procFD(fd), name, dest)
		return err
	})
	return uint32(max(size, 0)), status(err)
}

// ListXAttr lists extended attributes.
func (v *view) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n := v.node(in.NodeId)
	if n == nil {
		return 0, fuse.OK
	}
	size := 0
	err := v.with(n, func(fd int) (err error) {
		size, err = unix.Listxattr(procFD(fd), dest)
		return err
	})
	return uint32(max(size, 0)), status(err)
}

// SetXAttr sets an extended attribute.
func (v *view) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, data []byte) fuse.Status {
	n := v.node(in.NodeId)
	if n == nil {
		return fuse.EPERM
	}
	return status(v.with(n, func(fd int) error { return unix.Setxattr(procFD(fd), name, data, int(in.Flags)) }))
}

// RemoveXAttr removes an extended attribute.
func (v *view) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	n := v.node(in.NodeId)
	if n == nil {
		return fuse.EPERM
	}
	return status(v.with(n, func(fd int) error { return unix.Removexattr(procFD(fd), name) }))
}
