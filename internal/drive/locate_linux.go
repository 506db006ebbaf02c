package drive

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
)

// maxDepth bounds the way up to a mount's root. Deeper folders exist, but no
// path to them fits PATH_MAX, so readlink wouldn't tell their names anyway.
const maxDepth = 4096 / 2

func guestError(err error, doing string) error {
	var n unix.Errno
	if !errors.As(err, &n) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return errno.Errorf(errno.Errno(n), errno.LayerGuest, "%s: %s", doing, n.Error())
}

// node is what statx says of a descriptor that matters here.
type node struct {
	mount, ino   uint64
	major, minor uint32
	root         bool // the root of its mount
	dir          bool
}

// statNode asks for nothing that a network or FUSE file system has to be asked
// for: the fields wanted are the kernel's own.
func statNode(fd int) (node, error) {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT,
		unix.STATX_MNT_ID|unix.STATX_INO|unix.STATX_TYPE, &st)
	if err != nil {
		return node{}, guestError(err, "statx of folder")
	}
	if st.Mask&unix.STATX_MNT_ID == 0 || st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return node{}, errno.Errorf(errno.ENOSYS, errno.LayerGuest, "statx gives no mount id; Linux 5.8 does")
	}
	return node{
		mount: st.Mnt_id, ino: st.Ino, major: st.Dev_major, minor: st.Dev_minor,
		root: st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
		dir:  st.Mode&unix.S_IFMT == unix.S_IFDIR,
	}, nil
}

func mountOf(fd int) (uint64, error) {
	n, err := statNode(fd)
	return n.mount, err
}

func locate(fd int, mounts func(id uint64) (Mount, bool)) (Location, error) {
	at, err := statNode(fd)
	if err != nil {
		return Location{}, err
	}
	m, ok := mounts(at.mount)
	if !ok || m.Root == "" || m.Root[0] != '/' {
		return Location{}, ErrUnknownMount
	}
	// Nothing new can be made in there.
	if root, deleted := strings.CutSuffix(m.Root, deletedRoot); deleted {
		return Location{}, errno.Errorf(errno.ENOENT, errno.LayerGuest, "folder %s, bound at %s, was deleted", root, m.Point)
	}
	if at.root {
		return Location{Mount: m, Path: m.Root}, nil
	}
	if !at.dir {
		return Location{}, errno.Errorf(errno.ENOTDIR, errno.LayerGuest, "not a folder")
	}
	rest, err := pathInMount(fd, at, m.Point)
	if err != nil {
		return Location{}, err
	}
	return Location{Mount: m, Path: strings.TrimSuffix(m.Root, "/") + "/" + rest}, nil
}

// pathInMount returns the path of fd, below its mount's root, which may be at
// point.
func pathInMount(fd int, at node, point string) (string, error) {
	root, err := rootAt(point, at.mount)
	if err != nil {
		root, err = rootOf(fd, at)
	}
	top := func() (string, error) { return linkOf(root) }
	if errors.Is(err, errno.EACCES) {
		// A program may stand in a folder whose way up is closed to us. The mount
		// point's name does as well, if it is read just now: /proc/self/mountinfo
		// is relative to this process's root, as the link is.
		root, top = -1, func() (string, error) { return pointOf(at.mount) }
	} else if err != nil {
		return "", err
	} else {
		defer unix.Close(root)
	}
	// Both names are true while they are read; a rename above the mount between
	// the two makes them disagree, and then both are read again.
	for range 8 {
		before, err := top()
		if err != nil {
			return "", err
		}
		path, err := linkOf(fd)
		if err != nil {
			return "", err
		}
		after, err := top()
		if err != nil {
			return "", err
		}
		rest, ok := below(before, path)
		if before != after || !ok || rest == "" {
			continue
		}
		// A folder may be called so, or be gone.
		if strings.HasSuffix(rest, " (deleted)") && !isAt(root, rest, at) {
			return "", errno.Errorf(errno.ENOENT, errno.LayerGuest, "folder was deleted")
		}
		return rest, nil
	}
	return "", errno.Errorf(errno.ENOENT, errno.LayerGuest, "folder moves too fast to be located")
}

// pointOf reads the present mount point of a mount of our own namespace.
func pointOf(id uint64) (string, error) {
	list, err := mountsOf(os.Getpid())
	if err != nil {
		return "", fmt.Errorf("read own mountinfo: %w", err)
	}
	for i := range list {
		if uint64(list[i].ID) == id {
			return list[i].Point, nil
		}
	}
	return "", errno.Errorf(errno.EACCES, errno.LayerGuest, "way up from a folder of another namespace is closed")
}

const resolveCached = 0x20 // RESOLVE_CACHED of linux/openat2.h, which x/sys lacks

// rootAt opens a mount's root by the name of its mount point, if it is there.
// The name may be stale or another process's, so the lookup is one that never
// waits for a file system (RESOLVE_CACHED, Linux 5.12), and the mount's id decides.
func rootAt(point string, mount uint64) (int, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, point, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: resolveCached | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return -1, err
	}
	if n, err := statNode(fd); err != nil || n.mount != mount || !n.root {
		_ = unix.Close(fd)
		return -1, ErrUnknownMount
	}
	return fd, nil
}

// rootOf opens the root of fd's mount by going up from fd.
func rootOf(fd int, at node) (int, error) {
	cur := fd
	for range maxDepth {
		up, err := unix.Openat(cur, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if cur != fd {
			_ = unix.Close(cur)
		}
		if err != nil {
			return -1, guestError(err, "open folder above")
		}
		n, err := statNode(up)
		if err != nil {
			_ = unix.Close(up)
			return -1, err
		}
		if n.mount != at.mount || n == at && isOwnRoot(up) {
			// Left the mount unseen, or met this process's own root below the
			// mount's, where ".." leads no further.
			_ = unix.Close(up)
			return -1, ErrUnknownMount
		}
		if n.root {
			return up, nil
		}
		cur, at = up, n
	}
	if cur != fd {
		_ = unix.Close(cur)
	}
	return -1, errno.Errorf(errno.ENAMETOOLONG, errno.LayerGuest, "folder lies more than %d folders deep", maxDepth)
}

func isOwnRoot(fd int) bool {
	name, err := linkOf(fd)
	return err == nil && name == "/"
}

// linkOf returns the kernel's name for fd, from this process's root.
func linkOf(fd int) (string, error) {
	var buf [4097]byte
	n, err := unix.Readlink("/proc/self/fd/"+strconv.Itoa(fd), buf[:])
	if err != nil {
		return "", guestError(err, "readlink of folder")
	}
	return string(buf[:n]), nil
}

// isAt reports whether path below root leads to the node. Without a root (-1)
// it doesn't.
func isAt(root int, path string, want node) bool {
	fd, err := unix.Openat2(root, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	got, err := statNode(fd)
	return err == nil && got == want
}

// locateFolder locates a folder of this process's namespace by its path.
func locateFolder(path string) (Location, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Location{}, guestError(err, "open folder")
	}
	defer unix.Close(fd)
	mounts, err := OpenMounts()
	if err != nil {
		return Location{}, err
	}
	defer mounts.Close()
	return Locate(fd, mounts.Lookup)
}
