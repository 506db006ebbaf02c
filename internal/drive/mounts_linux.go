package drive

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// watched is a mountinfo file that tells when it changes: poll(2) then gives
// POLLPRI and POLLERR, once for each change and open file (proc(5)).
type watched struct {
	fd int
}

func openWatched() (watched, error) {
	fd, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return watched{-1}, fmt.Errorf("open own mountinfo: %w", err)
	}
	return watched{fd}, nil
}

func (w *watched) close() error {
	if w.fd < 0 {
		return nil
	}
	fd := w.fd
	w.fd = -1
	return unix.Close(fd)
}

// changed takes a report of a change. An error counts as none: the kernel gives
// EINTR, which a call without waiting doesn't meet, and ENOMEM.
func (w *watched) changed() bool {
	if w.fd < 0 {
		return false
	}
	fds := [1]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLPRI}}
	n, err := unix.Poll(fds[:], 0)
	return err == nil && n > 0
}

// read returns the whole file. The kernel makes it line by line while it is
// read, so a change on the way gives lines of two states: then it is read again,
// but not for ever where mounts never rest.
func (w *watched) read() ([]byte, error) {
	if w.fd < 0 {
		return nil, os.ErrClosed
	}
	var text []byte
	for range 8 {
		w.changed()
		var err error
		if text, err = readAll(w.fd, text[:0]); err != nil {
			return nil, err
		}
		if !w.changed() {
			return text, nil
		}
	}
	return text, nil
}

func readAll(fd int, buf []byte) ([]byte, error) {
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		return nil, err
	}
	for {
		if cap(buf)-len(buf) < 16<<10 {
			buf = append(make([]byte, 0, 2*cap(buf)+32<<10), buf...)
		}
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return buf, nil
		}
		if buf = buf[:len(buf)+n]; len(buf) > MaxMountinfo {
			return nil, fmt.Errorf("more than %d bytes", MaxMountinfo)
		}
	}
}

func mountsOf(pid int) ([]Mount, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ParseMounts(f)
}
