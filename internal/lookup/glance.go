//go:build linux

package lookup

import (
	"bytes"
	"strconv"

	"golang.org/x/sys/unix"
)

// Glance opens the folder of path for a look at where it lies, with a fraction
// of the system calls that Resolve makes. ok is false wherever only Resolve can
// tell: a task with a root folder of its own, a path through links of /proc, a
// last element that is a symbolic link or no name, or any error. The
// descriptor is O_PATH and the caller's.
//
// The walk is made with our own rights, so all it can be used for is to leave a
// call alone.
func Glance(tid int, path []byte) (folder int, ok bool) {
	i := bytes.LastIndexByte(path, '/')
	base := path[i+1:]
	if len(base) == 0 || string(base) == "." || string(base) == ".." {
		return -1, false
	}
	task := "/proc/" + strconv.Itoa(tid)
	if !ownRoot(task) {
		return -1, false
	}
	dir := string(path[:i+1])
	if dir == "" {
		dir = "."
	}
	from := unix.AT_FDCWD
	if dir[0] != '/' {
		cwd, err := unix.Open(task+"/cwd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, false
		}
		defer unix.Close(cwd)
		from = cwd
	}
	// Links of /proc lead elsewhere for the task: the magic ones are not followed,
	// and what the plain ones ("self") lead to is refused below.
	folder, err := unix.Openat2(from, dir, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, false
	}
	var st unix.Stat_t
	var fs unix.Statfs_t
	if unix.Fstatfs(folder, &fs) != nil || fs.Type == unix.PROC_SUPER_MAGIC {
		_ = unix.Close(folder)
		return -1, false
	}
	err = unix.Fstatat(folder, string(base), &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil && err != unix.ENOENT || err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		_ = unix.Close(folder)
		return -1, false
	}
	return folder, true
}

// ownRoot tells if a task has the root folder that we have.
func ownRoot(task string) bool {
	const want = unix.STATX_INO | unix.STATX_MNT_ID
	var own, its unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, "/", 0, want, &own) != nil || unix.Statx(unix.AT_FDCWD, task+"/root", 0, want, &its) != nil {
		return false
	}
	return own.Ino == its.Ino && own.Dev_major == its.Dev_major && own.Dev_minor == its.Dev_minor && own.Mnt_id == its.Mnt_id
}
