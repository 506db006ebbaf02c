package wait

import (
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// moment is how long a wait keeps its P, in nanoseconds: many round trips, and
// a tenth of what the runtime lets a goroutine keep one.
const moment = 1e6

// waiters is how many threads that wait here are reckoned with: the reader of a link,
// the reactor of its sockets and who takes the notifications of seccomp. A daemon has
// more of them, which seldom wait all at once.
const waiters = 3

var spared struct {
	sync.Mutex
	procs int // as the process began
	n     int // calls of Spare, at most waiters
}

// keepers is how many waits may keep their P: as many as Spare was told of.
var keepers atomic.Int32

// keeping is how many do. A daemon may have more threads that wait, and with the last P
// kept by one to which nothing comes, all others would stand still for a moment.
var keeping atomic.Int32

// keep tells if a wait may keep its P; if so, keeping is to be lowered afterwards.
func keep() bool {
	if keeping.Add(1) <= keepers.Load() {
		return true
	}
	keeping.Add(-1)
	return false
}

// Spare tells of one more thread that is going to wait. With all but the first the
// runtime may run a thread more: while one waits, another works. A P too many costs
// as well, since for each goroutine that is made ready the runtime then wakes a thread
// that finds nothing left to do. Without Spare, a wait never keeps its P.
func Spare() {
	spared.Lock()
	defer spared.Unlock()
	if spared.n == waiters {
		return
	}
	if spared.n == 0 {
		spared.procs = runtime.GOMAXPROCS(0)
	}
	spared.n++
	runtime.GOMAXPROCS(max(spared.procs, 2) + spared.n - 1)
	keepers.Store(int32(spared.n))
}

// Poll is ppoll(2) without a bound and without EINTR.
func Poll(fds []unix.PollFd) error {
	if keep() {
		ts := unix.Timespec{Nsec: moment}
		n, _, e := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds[0])), uintptr(len(fds)),
			uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
		keeping.Add(-1)
		if e == 0 && n > 0 {
			return nil
		}
	}
	for {
		if _, err := unix.Ppoll(fds, nil, nil); err != unix.EINTR {
			return err
		}
	}
}

// Moment is Poll for at most a millisecond. It tells whether something is ready.
func Moment(fds []unix.PollFd) bool {
	ts := unix.Timespec{Nsec: moment}
	if !keep() {
		n, err := unix.Ppoll(fds, &ts, nil)
		return n > 0 && err == nil
	}
	n, _, e := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds[0])), uintptr(len(fds)),
		uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	keeping.Add(-1)
	return e == 0 && n > 0
}

// Epoll is epoll_wait(2) without a bound and without EINTR.
func Epoll(ep int, events []unix.EpollEvent) (int, error) {
	if keep() {
		n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(&events[0])),
			uintptr(len(events)), moment/1e6, 0, 0)
		keeping.Add(-1)
		if e == 0 && n > 0 {
			return int(n), nil
		}
	}
	for {
		n, err := unix.EpollWait(ep, events, -1)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// Read is read(2) of a descriptor that doesn't block. Like the other calls
// below it keeps the P, which would be lost where the thread is interrupted for
// 20 us: by whom its own write has woken, for instance.
func Read(fd int, p []byte) (int, error) {
	return result(unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p))))
}

// Write is write(2) to a descriptor that doesn't block.
func Write(fd int, p []byte) (int, error) {
	return result(unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p))))
}

// Send is send(2) with MSG_DONTWAIT and MSG_NOSIGNAL.
func Send(fd int, p []byte) (int, error) {
	return result(unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
		unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0))
}

// Splice is splice(2) of at most n bytes between descriptors that don't block. Up to
// Linux 6.4 it may wait all the same, for a program that receives by the AF_UNIX socket
// to which bytes go while its memory is not there (unix_stream_sendpage takes iolock);
// a signal of the runtime's monitor ends that after some 10 ms.
func Splice(from, to, n int) (int, error) {
	return result(unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n),
		unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE))
}

func result(n, _ uintptr, e syscall.Errno) (int, error) {
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}
