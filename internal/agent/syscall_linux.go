package agent

import (
	"context"
	"fmt"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxName is the size of sun_path. A name may fill it without a final NUL
// (man 7 unix), which package x/sys refuses; it also takes a leading '@' for
// an abstract name. So names go to the kernel as they are.
const maxName = len(unix.RawSockaddrUnix{}.Path)

// newSocket returns a non-blocking stream socket that no child inherits.
func newSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	return fd, nil
}

func sockaddr(name string) (*unix.RawSockaddrUnix, uintptr, error) {
	sa := &unix.RawSockaddrUnix{Family: unix.AF_UNIX}
	if name == "" || len(name) > len(sa.Path) {
		return nil, 0, unix.ENAMETOOLONG
	}
	for i := range len(name) {
		sa.Path[i] = int8(name[i])
	}
	return sa, unsafe.Offsetof(sa.Path) + uintptr(len(name)), nil
}

func bindRaw(fd int, name string) error {
	return withName(unix.SYS_BIND, fd, name)
}

func connectRaw(fd int, name string) error {
	for {
		// A blocking connect is interrupted by the runtime's own signals.
		if err := withName(unix.SYS_CONNECT, fd, name); err != unix.EINTR {
			return err
		}
	}
}

func withName(call uintptr, fd int, name string) error {
	sa, size, err := sockaddr(name)
	if err != nil {
		return err
	}
	if _, _, e := unix.Syscall(call, uintptr(fd), uintptr(unsafe.Pointer(sa)), size); e != 0 {
		return e
	}
	return nil
}

// peerName returns the bytes of the name that the other end is bound to. An
// abstract one begins with NUL.
func peerName(fd int) ([]byte, error) {
	var sa unix.RawSockaddrUnix
	// One byte more than sun_path: the kernel counts a NUL that it adds to a
	// name which fills it.
	size := uint32(unsafe.Sizeof(sa))
	_, _, e := unix.Syscall(unix.SYS_GETPEERNAME, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)))
	if e != 0 {
		return nil, e
	}
	n := int(size) - int(unsafe.Offsetof(sa.Path))
	if n <= 0 {
		return nil, nil
	}
	name := make([]byte, 0, len(sa.Path))
	for _, c := range sa.Path[:min(n, len(sa.Path))] {
		if c == 0 && len(name) > 0 && name[0] != 0 {
			break // the end of a path; an abstract name may hold NULs
		}
		name = append(name, byte(c))
	}
	return name, nil
}

// control calls fn with the descriptor of c, which stays c's.
func control(c syscall.Conn, fn func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = fn(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// onOwnThread calls fn on a thread with a working directory and umask of its
// own, so that fn may change them. The thread ends afterwards.
func onOwnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the runtime then drops the thread
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- fmt.Errorf("thread with a folder of its own: %w", err)
			return
		}
		done <- fn()
	}()
	return <-done
}

// takeOwner makes the calling thread, which is to end, create files of another
// account. It keeps root's way past permissions: whether the account itself may
// make the file is the guest's to decide, and has been.
func takeOwner(o *owner) error {
	if o == nil || unix.Geteuid() != 0 {
		return nil
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETFSGID, uintptr(o.gid), 0, 0); e != 0 {
		return e
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETFSUID, uintptr(o.uid), 0, 0); e != 0 {
		return e
	}
	// setfsuid(2) away from 0 took the file capabilities from the effective set.
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return err
	}
	for i := range data {
		data[i].Effective = data[i].Permitted
	}
	return unix.Capset(&hdr, &data[0])
}

const (
	slice    = 100 * time.Millisecond // of a blocking connect, between looks at its context
	retry    = 10 * time.Millisecond  // of a connect for which no thread is free
	patients = 64
)

// waiting bounds the threads that stand in a blocking connect. Connects beyond
// it try again from time to time: a place in the kernel's queue is worth a
// thread only while few want one.
var waiting = make(chan struct{}, patients)

// connectWait connects fd, which is non-blocking and stays so. A full backlog
// gives EAGAIN, after the time that opt grants. There is no event that tells a
// socket that is not connected yet of room in a backlog, so it is the kernel's
// own wait, in slices (SO_SNDTIMEO bounds connect, man 7 socket).
func connectWait(ctx context.Context, fd int, name string, opt connectOptions) error {
	err := connectRaw(fd, name)
	if err != unix.EAGAIN || opt.nonblock {
		return err
	}
	var deadline time.Time
	if opt.timeout > 0 {
		deadline = time.Now().Add(opt.timeout)
	}
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		part := slice
		if !deadline.IsZero() {
			part = min(part, time.Until(deadline))
			if part <= 0 {
				return unix.EAGAIN
			}
		}
		select {
		case waiting <- struct{}{}:
			err = connectSlice(fd, name, part)
			<-waiting
		default:
			if !sleep(ctx, min(part, retry)) {
				return context.Cause(ctx)
			}
			err = connectRaw(fd, name)
		}
		if err != unix.EAGAIN {
			return err
		}
	}
}

// connectSlice is a blocking connect of at most d.
func connectSlice(fd int, name string, d time.Duration) error {
	tv := unix.NsecToTimeval(max(d, time.Millisecond).Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		return err
	}
	err := connectRaw(fd, name)
	if e := unix.SetNonblock(fd, true); err == nil {
		err = e
	}
	return err
}
