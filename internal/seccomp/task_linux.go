package seccomp

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"

	"drvsock/internal/errno"

	"golang.org/x/sys/unix"
)

// ReadMemory fills buf from address addr of the memory of thread tid. As in a
// system call of the thread itself it is all or nothing: *errno.Error with
// EFAULT if any of it can't be read. The error wraps ErrGone if there is no such
// thread, and unix.EPERM if the caller may not look into it
// (PTRACE_MODE_ATTACH_REALCREDS in ptrace(2)).
func ReadMemory(tid int, addr uint64, buf []byte) error {
	if len(buf) == 0 {
		return nil
	}
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(len(buf))
	remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(buf)}}
	n, err := unix.ProcessVMReadv(tid, local, remote, 0)
	switch {
	case err == unix.ESRCH:
		return fmt.Errorf("read memory of thread %d: %w", tid, ErrGone)
	case err == unix.EFAULT || err == unix.EINVAL || err == nil && n != len(buf): // EINVAL: the end of the range wraps around
		return errno.Errorf(errno.EFAULT, errno.LayerGuest, "thread %d has no %d bytes at %#x", tid, len(buf), addr)
	case err != nil:
		return fmt.Errorf("read memory of thread %d: %w", tid, err)
	}
	return nil
}

// WriteMemory writes buf to address addr of the memory of thread tid, with the
// errors of [ReadMemory].
func WriteMemory(tid int, addr uint64, buf []byte) error {
	if len(buf) == 0 {
		return nil
	}
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(len(buf))
	remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(buf)}}
	n, err := unix.ProcessVMWritev(tid, local, remote, 0)
	switch {
	case err == unix.ESRCH:
		return fmt.Errorf("write memory of thread %d: %w", tid, ErrGone)
	case err == unix.EFAULT || err == unix.EINVAL || err == nil && n != len(buf):
		return errno.Errorf(errno.EFAULT, errno.LayerGuest, "thread %d has no %d bytes to write to at %#x", tid, len(buf), addr)
	case err != nil:
		return fmt.Errorf("write memory of thread %d: %w", tid, err)
	}
	return nil
}

// Tgid returns the process that thread tid belongs to. The error wraps ErrGone
// if there is no such thread.
func Tgid(tid int) (int, error) {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return 0, fmt.Errorf("read status of thread %d: %w", tid, ErrGone)
	}
	if err != nil {
		return 0, err
	}
	tgid, err := parseTgid(status)
	if err != nil {
		return 0, fmt.Errorf("read status of thread %d: %w", tid, err)
	}
	return tgid, nil
}

// parseTgid finds the line "Tgid:\t<number>" of /proc/PID/status (proc(5)). The
// task's own words, in the line "Name:", have their newlines escaped there.
func parseTgid(status []byte) (int, error) {
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte("Tgid:")); ok {
			n, err := strconv.ParseInt(string(bytes.TrimSpace(rest)), 10, 32)
			if err != nil || n <= 0 {
				return 0, fmt.Errorf("line %.40q", line)
			}
			return int(n), nil
		}
	}
	return 0, errors.New("no line Tgid")
}

// noThreadPidfd remembers that the kernel is older than Linux 6.9.
var noThreadPidfd atomic.Bool

// GetFD returns a copy of descriptor fd of thread tid, close-on-exec and owned
// by the caller: the same open file, so options and state are shared. Kernels
// before 6.9 can only ask the thread's process; its threads share one table of
// descriptors unless the program went out of its way.
//
// The error is *errno.Error with EBADF if the thread has no such descriptor, or
// wraps ErrGone, or wraps unix.EPERM as [ReadMemory] does.
func GetFD(tid, fd int) (int, error) {
	if fd < 0 {
		return -1, errno.Errorf(errno.EBADF, errno.LayerGuest, "descriptor %d", fd)
	}
	pidfd, err := openThread(tid)
	if err != nil {
		return -1, err
	}
	defer unix.Close(pidfd)
	got, err := unix.PidfdGetfd(pidfd, fd, 0)
	switch err {
	case nil:
		return got, nil
	case unix.EBADF:
		return -1, errno.Errorf(errno.EBADF, errno.LayerGuest, "thread %d has no descriptor %d", tid, fd)
	case unix.ESRCH:
		err = ErrGone
	}
	return -1, fmt.Errorf("copy descriptor %d of thread %d: %w", fd, tid, err)
}

func openThread(tid int) (int, error) {
	const pidfdThread = unix.O_EXCL // PIDFD_THREAD, include/uapi/linux/pidfd.h
	if !noThreadPidfd.Load() {
		fd, err := unix.PidfdOpen(tid, pidfdThread)
		switch err {
		case nil:
			return fd, nil
		case unix.EINVAL:
			if tid <= 0 {
				return -1, fmt.Errorf("open pidfd of thread %d: %w", tid, ErrGone)
			}
			noThreadPidfd.Store(true)
		case unix.ESRCH:
			return -1, fmt.Errorf("open pidfd of thread %d: %w", tid, ErrGone)
		default:
			return -1, fmt.Errorf("open pidfd of thread %d: %w", tid, err)
		}
	}
	tgid, err := Tgid(tid)
	if err != nil {
		return -1, err
	}
	fd, err := unix.PidfdOpen(tgid, 0)
	if err == unix.ESRCH {
		err = ErrGone
	}
	if err != nil {
		return -1, fmt.Errorf("open pidfd of process %d: %w", tgid, err)
	}
	return fd, nil
}
