package mount

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"
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
	onThread(func() {
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
	})
	return <-done
}

// onThread starts fn on a thread that ends with it. That is never the process's
// first: what /proc/self shows of descriptors and namespaces is that one's, and
// the runtime keeps it for good.
func onThread(fn func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			fn() // and the thread ends with the goroutine, as it is locked
			return
		}
		over := make(chan bool)
		go func() { // on another one, as this is taken
			defer close(over)
			runtime.LockOSThread()
			fn()
		}()
		<-over
		runtime.UnlockOSThread()
	}()
}

// openAlone opens name in the folder dir, both of which may lie in the view.
func openAlone(dir int, name string, flags int) (fd int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	err = alone(nil, func() error {
		fd, err := unix.Openat(dir, name, flags, 0)
		if err != nil {
			return err
		}
		return unix.Sendmsg(pair[1], []byte{0}, unix.UnixRights(fd), nil, 0)
	}, dir, pair[1])
	if err != nil {
		return -1, err
	}
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("recvmsg", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return -1, fmt.Errorf("descriptor of %s: %d messages, %w", name, len(msgs), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return -1, err
	}
	return fds[0], nil
}

// runtimes are the descriptors that the runtime itself needs on every thread: its
// poller's, which it may wake as the thread ends, and dies if it can't, and those
// to say so.
var runtimes = sync.OnceValue(func() []int {
	time.NewTimer(time.Hour).Stop() // which makes the poller
	keep := []int{0, 1, 2}
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return keep
	}
	for _, e := range dir {
		text, _ := os.Readlink("/proc/self/fd/" + e.Name())
		fd, err := strconv.Atoi(e.Name())
		if err == nil && (text == "anon_inode:[eventpoll]" || text == "anon_inode:[eventfd]") {
			keep = append(keep, fd)
		}
	}
	return keep
})

// keepOnly gives the calling thread a table of descriptors of its own, with no
// others than these and those of the runtime (close_range(2), Linux 5.9).
func keepOnly(fds []int) error {
	fds = append(slices.Clone(fds), runtimes()...)
	slices.Sort(fds)
	fds = slices.Compact(fds)
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
