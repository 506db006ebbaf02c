package mount

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"drvsock/internal/lookup"
)

// alone runs fn on a thread of its own that has no descriptors but these, and is
// gone afterwards. as, if not nil, is who it is then, with all rights that we
// have.
//
// It is for what this process asks of the view that it serves itself. Should the
// process be killed meanwhile, a thread that waits for an answer of the view
// would keep the connection to the kernel open with its descriptors, and so wait
// for ever for what nobody will say.
func alone(as *lookup.Task, fn func() error, fds ...int) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends here
		done <- func() error {
			if err := keepOnly(fds); err != nil {
				return fmt.Errorf("thread of its own: %w", err)
			}
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return os.NewSyscallError("unshare", err)
			}
			if as != nil && os.Geteuid() == 0 {
				if err := become(as); err != nil {
					return fmt.Errorf("take the ids of task %d: %w", as.TID, err)
				}
			}
			return fn()
		}()
	}()
	return <-done
}

// keepOnly gives the calling thread a table of descriptors of its own, with no
// others than these (close_range(2), Linux 5.9).
func keepOnly(fds []int) error {
	fds = slices.Clone(fds)
	slices.Sort(fds)
	const last = ^uint32(0)
	highest := uint32(0)
	if len(fds) > 0 {
		highest = uint32(fds[len(fds)-1])
	}
	if err := closeRange(highest+1, last, unix.CLOSE_RANGE_UNSHARE); err != nil {
		return err
	}
	first := uint32(0)
	for _, fd := range fds {
		if uint32(fd) > first {
			if err := closeRange(first, uint32(fd)-1, 0); err != nil {
				return err
			}
		}
		first = uint32(fd) + 1
	}
	return nil
}

func closeRange(first, last, flags uint32) error {
	if _, _, e := unix.Syscall(unix.SYS_CLOSE_RANGE, uintptr(first), uintptr(last), uintptr(flags)); e != 0 {
		return os.NewSyscallError("close_range", e)
	}
	return nil
}

// become changes the calling thread alone, which can't go back.
func become(t *lookup.Task) error {
	const keep = ^uintptr(0)
	var groups unsafe.Pointer
	if len(t.Groups) > 0 {
		groups = unsafe.Pointer(&t.Groups[0])
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(t.Groups)), uintptr(groups), 0); e != 0 {
		return e
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, keep, uintptr(t.EGID), keep); e != 0 {
		return e
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(t.EUID), keep); e != 0 {
		return e
	}
	// The real user is still root, so what is permitted has not changed.
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return err
	}
	data[0].Effective, data[1].Effective = data[0].Permitted, data[1].Permitted
	return unix.Capset(&hdr, &data[0])
}
