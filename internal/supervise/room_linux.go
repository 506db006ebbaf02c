package supervise

import (
	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
)

// spare is how many descriptors are kept for calls under way, at most. Each takes a
// few for a moment, also the one that turns out to be none of ours, and where there
// are none left nobody can tell the two apart.
const spare = 256

// room tells if what stays open may be added, fd being the last descriptor that was
// opened: the kernel gives the lowest number that is free.
func room(fd int) error {
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) != nil || fitsIn(fd, lim.Cur) {
		return nil
	}
	return errno.Errorf(errno.EMFILE, errno.LayerGuest, "the supervisor has only %d descriptors (RLIMIT_NOFILE)", lim.Cur)
}

func fitsIn(fd int, limit uint64) bool { return uint64(fd) < limit-min(spare, limit/4) }

// wanting tells of an error that it is of the supervisor, which has no descriptor
// or memory left, and not of the call.
func wanting(err error) bool {
	switch errno.FromSystem(err, errno.LayerGuest).Errno {
	case errno.EMFILE, errno.ENFILE, errno.ENOMEM:
		return true
	}
	return false
}
