//go:build !linux && !windows

package errno

import "syscall"

// fromSyscall knows no other system's numbers. No agent runs there.
func fromSyscall(n syscall.Errno) (Errno, uint32) { return EIO, uint32(n) }
