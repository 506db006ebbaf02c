package afunix

import "golang.org/x/sys/unix"

// soPassRights is SO_PASSRIGHTS of Linux 6.16.
const soPassRights = 83

// RefuseRights makes sendmsg(2) of a peer that passes descriptors along fail with
// EPERM, since they can't reach the other system. Connections inherit it from their
// listener. It tells whether none can have come: the socket was made so before, and
// not only now that some may be queued. A kernel that can't leaves it to the reader
// to look for them.
func RefuseRights(fd int) (none bool) {
	passes, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, soPassRights)
	if err != nil {
		return false
	}
	if passes == 0 {
		return true
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, soPassRights, 0)
	return false
}
