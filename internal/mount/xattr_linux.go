package mount

import (
	"bytes"
	"slices"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"drvsock/internal/lookup"
)

const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// barred tells if an attribute is not for the caller uid. For those of "system."
// the kernel leaves it to the file system who may use them (xattr(7)), and to the
// one beneath it is this process that asks. It knows the rules of the two for ACLs
// alone, whose calls come by a way of their own.
func (v *view) barred(name string, uid uint32) bool {
	return strings.HasPrefix(name, "system.") && name != aclAccess && name != aclDefault && uid != v.uid
}

// can tells if the caller has a capability, as far as can be known.
func can(in *fuse.InHeader, capability int) bool {
	if in.Uid == 0 {
		return true
	}
	t, err := lookup.ReadTask(int(in.Pid))
	return err == nil && t.Caps>>capability&1 != 0
}

// GetXAttr reads an extended attribute.
func (v *view) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	n := v.node(in.NodeId)
	if n == nil {
		return 0, fuse.ENODATA
	}
	if v.barred(name, in.Uid) {
		return 0, fuse.Status(unix.EOPNOTSUPP)
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
	var names []byte
	if err := v.with(n, func(fd int) (err error) { names, err = listXAttr(procFD(fd)); return err }); err != nil {
		return 0, status(err)
	}
	if bytes.Contains(names, []byte(trusted)) && !can(in, unix.CAP_SYS_ADMIN) {
		names = withoutTrusted(names)
	}
	if len(dest) > 0 && len(dest) < len(names) {
		return 0, fuse.ERANGE
	}
	copy(dest, names)
	return uint32(len(names)), fuse.OK
}

// trusted begins the names that only who may administer the system gets to see.
const trusted = "trusted."

// withoutTrusted takes those out of a list of names, each of which ends with a NUL.
func withoutTrusted(names []byte) []byte {
	return bytes.Join(slices.DeleteFunc(bytes.SplitAfter(names, []byte{0}), func(n []byte) bool {
		return bytes.HasPrefix(n, []byte(trusted))
	}), nil)
}

func listXAttr(path string) ([]byte, error) {
	for b := make([]byte, 1<<10); ; b = make([]byte, 1<<16) { // XATTR_LIST_MAX
		size, err := unix.Listxattr(path, b)
		if err == unix.ERANGE && len(b) < 1<<16 {
			continue
		}
		return b[:max(size, 0)], err
	}
}

// SetXAttr sets an extended attribute.
func (v *view) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, data []byte) fuse.Status {
	n := v.node(in.NodeId)
	if n == nil {
		return fuse.EPERM
	}
	if v.barred(name, in.Uid) {
		return fuse.Status(unix.EOPNOTSUPP)
	}
	return status(v.with(n, func(fd int) error {
		if err := unix.Setxattr(procFD(fd), name, data, int(in.Flags)); err != nil || name != aclAccess {
			return err
		}
		return v.ungroup(fd, &in.InHeader)
	}))
}

// RemoveXAttr removes an extended attribute.
func (v *view) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	n := v.node(in.NodeId)
	if n == nil {
		return fuse.EPERM
	}
	if v.barred(name, in.Uid) {
		return fuse.Status(unix.EOPNOTSUPP)
	}
	return status(v.with(n, func(fd int) error { return unix.Removexattr(procFD(fd), name) }))
}

// ungroup takes the set-group-ID bit off a file whose ACL the caller has set, if he
// is not of its group (posix_acl_update_mode): for the system beneath that was us.
func (v *view) ungroup(fd int, in *fuse.InHeader) error {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	if v.uid != 0 || st.Mode&unix.S_ISGID == 0 || in.Gid == st.Gid || can(in, unix.CAP_FSETID) {
		return nil
	}
	if t, err := lookup.ReadTask(int(in.Pid)); err == nil && slices.Contains(t.Groups, st.Gid) {
		return nil
	}
	return unix.Fchmodat(unix.AT_FDCWD, procFD(fd), st.Mode&0o7777&^unix.S_ISGID, 0)
}
