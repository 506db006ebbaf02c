//go:build !linux && !windows

package errno

import "syscall"

// fromSyscall knows no other system's numbers. No agent runs there.
func fromSyscall(syscall.Errno) (Errno, bool) { return 0, false }
