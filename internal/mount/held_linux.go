package mount

import "golang.org/x/sys/unix"

// full tells if there may be no more folders, or sockets, which may be some more: who
// can't open a descriptor can't open a file either, make a socket, or even be
// unmounted by fusermount3. It is the kernel that decides when it forgets some.
func (v *view) full(kind uint32) bool {
	v.mu.Lock()
	most := v.most
	if kind == unix.S_IFSOCK {
		most += v.spare / 2
	}
	is := v.held >= most
	first := is && !v.scarce
	v.scarce = v.scarce || is
	v.mu.Unlock()
	if first {
		v.log.Warn("too many folders are in use: programs get EMFILE (the hard limit of open files, ulimit -Hn, bounds them)", "folders", most)
	}
	return is
}

// openPath opens a file, which may be of any kind, and asks for its attributes.
func openPath(dir int, base string, st *unix.Stat_t) (int, error) {
	fd, err := unix.Openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Fstatat(fd, "", st, unix.AT_EMPTY_PATH); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// grab returns the node's descriptor, which stays until letGo.
func (v *view) grab(n *node) (int, error) {
	v.mu.Lock()
	if n.fd >= 0 {
		n.users++
		v.mu.Unlock()
		return n.fd, nil
	}
	dir, base, want := n.dir, n.base, n.key
	v.mu.Unlock()
	if dir == nil {
		return -1, unix.ESTALE // forgotten
	}
	var st unix.Stat_t
	fd, err := openPath(dir.fd, base, &st)
	if err == nil && keyOf(&st) != want {
		_ = unix.Close(fd)
		err = unix.ESTALE
	}
	if err != nil {
		return -1, gone(err)
	}
	v.lend(n, fd)
	return n.fd, nil
}

// lend is grab where a descriptor of the file is at hand, which it takes over.
func (v *view) lend(n *node, fd int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case n.fd < 0:
		n.fd = fd
	case n.fd != fd:
		_ = unix.Close(fd)
	}
	n.users++
}

// gone is the error of a name that leads to a file no more, for which the kernel
// looks again.
func gone(err error) error {
	if err == unix.ENOENT {
		return unix.ESTALE
	}
	return err
}

// letGo ends one use of the node's descriptor.
func (v *view) letGo(n *node) {
	v.mu.Lock()
	fd := -1
	if n.users--; n.users == 0 {
		fd, n.fd = n.fd, -1
	}
	v.mu.Unlock()
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}

// with calls fn with the node's descriptor.
func (v *view) with(n *node, fn func(fd int) error) error {
	fd, err := v.grab(n)
	if err != nil {
		return err
	}
	defer v.letGo(n)
	return fn(fd)
}
