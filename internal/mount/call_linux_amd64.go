package mount

// Numbers of i386's calls, of arch/x86/entry/syscalls/syscall_32.tbl. Those that
// they are on amd64 look up no path.
const (
	compatSocketcall = 102
	compatBind       = 361
	compatConnect    = 362
)
