package mount

import "golang.org/x/sys/unix"

const plainOpen = unix.SYS_OPEN

// Numbers of i386's calls, of arch/x86/entry/syscalls/syscall_32.tbl. Those that
// they are on amd64 look up no path.
const (
	compatOpen       = 5
	compatSocketcall = 102
	compatOpenat     = 295
	compatBind       = 361
	compatConnect    = 362
)
