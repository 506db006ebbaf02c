package seccomp

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrBusy says that a listener is in force already: the kernel allows one for
// each chain of filters, and a task inherits its parent's chain (Linux
// kernel/seccomp.c, has_duplicate_listener). That is so inside a program run by
// this package, and in a WSL 2 whose network mode is Mirrored or Consomme
// (VirtioProxy), where WSL's init watches bind and listen of the whole distro
// (microsoft/WSL#9548). No privilege lifts it.
var ErrBusy = errors.New("another seccomp listener is in force")

// Install puts the filter on the calling thread, which the caller has locked
// ([runtime.LockOSThread]) and which hands it down to what it starts or execs,
// and returns the listener's descriptor, close-on-exec and owned by the caller.
//
// Other threads of the process stay without it: a Go program is to exec right
// after. While the filter is on, a call that it hands over waits for the
// supervisor; once the last copy of the descriptor is closed, such calls fail
// with ENOSYS.
//
// The error wraps ErrBusy, [errors.ErrUnsupported] on an unknown machine, or
// the number that seccomp(2) gave: EACCES without o.NoNewPrivs and
// CAP_SYS_ADMIN, ENOSYS or EINVAL from a kernel without user notification.
func Install(o Options) (int, error) {
	prog := Filter(o)
	if len(prog) == 0 {
		return -1, fmt.Errorf("seccomp filter for %s: %w", runtime.GOARCH, errors.ErrUnsupported)
	}
	if o.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return -1, fmt.Errorf("set no_new_privs: %w", err)
		}
	}
	// SPEC_ALLOW: kernels before 5.16 slow every task with a filter down by the
	// mitigations meant for sandboxes unless told not to.
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	fd, err := install(prog, flags|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
	if err == unix.EINVAL { // before Linux 5.19
		fd, err = install(prog, flags)
	}
	switch {
	case err == unix.EBUSY:
		return -1, fmt.Errorf("install seccomp filter: %w", ErrBusy)
	case err != nil:
		return -1, fmt.Errorf("install seccomp filter: %w", err)
	}
	return fd, nil
}

func install(prog []unix.SockFilter, flags uintptr) (int, error) {
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	fd, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(prog)
	if e != 0 {
		return -1, e
	}
	return int(fd), nil
}
