package drive

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// realpath asks the kernel for the name of what path leads to. Unlike a walk in
// this process it needs no more rights than the path itself, and its errors are
// the kernel's.
func realpath(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
}

// workdir is getcwd(2), which knows nothing of $PWD, unlike os.Getwd. The kernel
// marks a folder outside of the process's root.
func workdir() (string, error) {
	dir, err := unix.Getwd()
	if err == nil && !strings.HasPrefix(dir, "/") {
		err = unix.ENOENT
	}
	return dir, err
}
