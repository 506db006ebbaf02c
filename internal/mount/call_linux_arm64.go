package mount

const plainOpen = -3 // not there

// Numbers of 32-bit Arm's calls, of arch/arm/tools/syscall.tbl. Those that they
// are on arm64 look up no path, but for 5, setxattr(2), which doesn't mind being taken
// for an open.
const (
	compatOpen       = 5
	compatSocketcall = -2 // not there
	compatBind       = 282
	compatConnect    = 283
	compatOpenat     = 322
)
