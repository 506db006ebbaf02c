package errno

import "syscall"

// fromSyscall is the identity: the wire speaks Linux numbers. 4095 is the
// highest that the kernel returns (MAX_ERRNO in include/linux/err.h).
func fromSyscall(n syscall.Errno) (Errno, uint32) {
	if n > 4095 {
		return EIO, uint32(n)
	}
	return Errno(n), uint32(n)
}
