package errno

// An Op is the call that a host's answer belongs to.
type Op uint8

// The calls whose answers Refine knows.
const (
	OpBind Op = iota + 1
	OpConnect
	OpStat
	OpUnlink
)

// A Look is what a host found at a path after a call on it had been refused.
type Look uint8

// What a look can find.
const (
	LookUnknown   Look = iota // the look was refused too, or there was none
	LookNoFolder              // a folder above the name is missing
	LookNotFolder             // what should be a folder above the name is a file
	LookMissing               // the folder is there, the name isn't
	LookSocket                // a socket
	LookOther                 // a file or a folder
)

// Refine returns the number that a local socket would give, for a host whose
// own answer n is too coarse: afunix.sys says WSAENETDOWN, WSAEINVAL or
// WSAEOPNOTSUPP for paths that it cannot use, whatever the reason (golang/go
// 44797, curl/curl 19810, microsoft/WSL 4240), and Win32 has one number for a
// missing folder and a file in a folder's place. A number that is plain already,
// EACCES above all, is kept, with one exception: a name that is taken makes a
// local bind fail with EADDRINUSE before permissions are looked at.
//
// connect to a socket that is there keeps n unless n denies its existence. It
// would be wrong to call it ECONNREFUSED: programs take that for a stale socket
// and remove it.
func Refine(op Op, n Errno, look Look) Errno {
	if op == OpBind && (look == LookSocket || look == LookOther) && (coarse(n) || n == EACCES) {
		return EADDRINUSE
	}
	if !coarse(n) {
		return n
	}
	switch look {
	case LookNoFolder:
		return ENOENT
	case LookNotFolder:
		return ENOTDIR
	case LookMissing:
		if op != OpBind {
			return ENOENT
		}
	case LookSocket:
		if op == OpConnect && n == ENOENT {
			return ECONNREFUSED // made between the two looks, and not listening then
		}
	case LookOther:
		if op == OpConnect {
			return ECONNREFUSED
		}
	}
	return n
}

// coarse reports whether n may stand for any reason.
func coarse(n Errno) bool {
	switch n {
	case ENOENT, EEXIST, EINVAL, EOPNOTSUPP, EADDRNOTAVAIL, ENETDOWN, ECONNREFUSED, EIO:
		return true
	}
	return false
}
