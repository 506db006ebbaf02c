package errno

import "syscall"

func fromSyscall(n syscall.Errno) (Errno, uint32) {
	if e, ok := invented[n]; ok {
		return e, 0
	}
	if e, ok := FromWindows(uint32(n)); ok {
		return e, uint32(n)
	}
	return EIO, uint32(n)
}

// invented are numbers that package syscall made up for POSIX names which
// Windows lacks (syscall/types_windows.go, APPLICATION_ERROR + i). They come
// out of package net and x/sys, as EINVAL for a name that is too long.
var invented = map[syscall.Errno]Errno{
	syscall.EINVAL:       EINVAL,
	syscall.ENAMETOOLONG: ENAMETOOLONG,
	syscall.ELOOP:        ELOOP,
	syscall.EISDIR:       EISDIR,
	syscall.EPERM:        EPERM,
	syscall.EBUSY:        EBUSY,
	syscall.EPIPE:        EPIPE,
	syscall.EADDRINUSE:   EADDRINUSE,
	syscall.ECONNREFUSED: ECONNREFUSED,
	syscall.ETIMEDOUT:    ETIMEDOUT,
	syscall.EOPNOTSUPP:   EOPNOTSUPP,
	syscall.EAFNOSUPPORT: EAFNOSUPPORT,
	syscall.ENOTSOCK:     ENOTSOCK,
	syscall.EISCONN:      EISCONN,
	syscall.ENOTCONN:     ENOTCONN,
	syscall.ECANCELED:    ECANCELED,
	syscall.ENOBUFS:      ENOBUFS,
	syscall.ENOSYS:       ENOSYS,
	syscall.EWINDOWS:     ENOSYS,
}
