package supervise

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Inherited lists the descriptors above stderr that an exec would pass on.
// Whatever this program opens itself is close-on-exec, so these are the ones
// that its parent meant for the command.
func Inherited() []int {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var fds []int
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd <= 2 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			fds = append(fds, fd)
		}
	}
	return fds
}
