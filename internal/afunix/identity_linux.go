package afunix

import (
	"time"

	"golang.org/x/sys/unix"
)

// An Identity tells a file from a later one of the same name. The time of birth
// guards against an inode number used again after the socket was closed; file
// systems without it have zero.
type Identity struct {
	major, minor uint32
	inode        uint64
	birth        unix.StatxTimestamp
}

// Known reports whether id is a file's.
func (id Identity) Known() bool { return id != Identity{} }

// Before reports whether the file is known to be older than t. The kernel's
// times lag by up to a tick.
func (id Identity) Before(t time.Time) bool {
	if id.birth == (unix.StatxTimestamp{}) {
		return false
	}
	return time.Unix(id.birth.Sec, int64(id.birth.Nsec)).Before(t.Add(-tick))
}

// tick is the longest that a file's time can lag: CONFIG_HZ is 100 at least.
const tick = 10 * time.Millisecond

// Identify returns the identity of the socket name in the folder dir, as for
// openat(2): a link is not followed, anything else is ENOTSOCK.
func Identify(dir int, name string) (Identity, error) {
	return identify(dir, name, unix.AT_SYMLINK_NOFOLLOW)
}

// IdentifyFile is Identify for a descriptor, which may be of O_PATH.
func IdentifyFile(fd int) (Identity, error) { return identify(fd, "", unix.AT_EMPTY_PATH) }

func identify(dir int, name string, flags int) (Identity, error) {
	var st unix.Statx_t
	err := unix.Statx(dir, name, flags, unix.STATX_INO|unix.STATX_TYPE|unix.STATX_BTIME, &st)
	if err != nil {
		return Identity{}, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return Identity{}, unix.ENOTSOCK
	}
	id := Identity{major: st.Dev_major, minor: st.Dev_minor, inode: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.birth = st.Btime
	}
	return id, nil
}
