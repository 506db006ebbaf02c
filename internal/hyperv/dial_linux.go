package hyperv

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// bufferSize is asked for each direction and doubled by the kernel (socket(7)).
// The two rings of a connection are one piece of memory, 256 KiB so: larger
// ones were refused on machines that had run for long (microsoft/WSL#40795).
const bufferSize = 64 << 10

// slice is how long a wait for the host goes without a look at its context.
const slice = 50 * time.Millisecond

// dial connects a new socket. It does without a library because the sizes of the
// rings have to be said between socket(2) and the host's answer, and because what
// comes of it is a descriptor for package link, which has its own way to wait.
func dial(ctx context.Context, cid, port uint32, limit time.Duration) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	to := &unix.SockaddrVM{CID: cid, Port: port}
	if err := connect(ctx, fd, to, silent{cid, port, limit}); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("CID %d port %d", cid, port)), nil
}

// connect connects fd, which doesn't block, or returns none after none.limit.
func connect(ctx context.Context, fd int, to unix.Sockaddr, none silent) error {
	// The kernel's own limit is 2 s. It gets a second more than ours has, so that
	// there is one to blame.
	tv := unix.NsecToTimeval((none.limit + time.Second).Nanoseconds())
	_ = unix.SetsockoptTimeval(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_CONNECT_TIMEOUT, &tv)
	enlarge(fd)
	err := unix.Connect(fd, to)
	if err != unix.EINPROGRESS && err != nil {
		return os.NewSyscallError("connect", err)
	}
	// connect(2) may choose the transport, whose hvs_sock_init sets the sizes back
	// to the least. They count when the host's offer comes (hvs_open_connection).
	enlarge(fd)
	deadline := time.Now().Add(none.limit)
	for err == unix.EINPROGRESS {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		left := time.Until(deadline)
		if left <= 0 {
			return none
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, perr := unix.Poll(fds, int(min(left, slice).Milliseconds())+1)
		if perr != nil && perr != unix.EINTR {
			return os.NewSyscallError("poll", perr)
		}
		if n > 0 {
			err = outcome(fd)
		}
	}
	if err == unix.ETIMEDOUT {
		return none
	}
	return os.NewSyscallError("connect", err)
}

// outcome is what came of a connect under way.
func outcome(fd int) error {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if n != 0 {
		return unix.Errno(n)
	}
	if _, err := unix.Getpeername(fd); err != nil {
		return unix.EINPROGRESS // woken for nothing
	}
	return nil
}

func enlarge(fd int) {
	// Smaller rings are slower, and no reason to go without.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, bufferSize)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bufferSize)
}

// silent is the error of a dial that was not answered.
type silent struct {
	cid, port uint32
	limit     time.Duration
}

func (s silent) Error() string {
	return fmt.Sprintf("no answer from CID %d port %d within %v", s.cid, s.port, s.limit)
}

func (silent) Unwrap() error { return os.ErrDeadlineExceeded }
