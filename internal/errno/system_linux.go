package errno

import "syscall"

// fromSyscall is the identity: the wire speaks Linux numbers. 4095 is the
// highest that the kernel returns (MAX_ERRNO in include/linux/err.h).
func fromSyscall(n syscall.Errno) (Errno, bool) {
	return Errno(n), n <= 4095
}
