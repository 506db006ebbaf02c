package mount

// Numbers of 32-bit Arm's calls, of arch/arm/tools/syscall.tbl. Those that they
// are on arm64 look up no path.
const (
	compatSocketcall = -2 // not there
	compatBind       = 282
	compatConnect    = 283
)
