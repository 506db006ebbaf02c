package seccomp

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"drvsock/internal/errno"
	"drvsock/internal/wait"

	"golang.org/x/sys/unix"
)

// ErrGone says that the task no longer waits for the answer: it was killed, or
// a signal took it out of the call before the call was received.
var ErrGone = errors.New("the task no longer waits")

// A Listener receives the calls that a filter hands over. All methods may be
// called at the same time from several goroutines.
type Listener struct {
	recv    sync.Mutex   // one reader at a time, or a second one would wait in the kernel, out of Close's reach
	mu      sync.RWMutex // held for reading while a descriptor is in use
	closing atomic.Bool
	fd      int // of the filter; -1 once closed
	wake    int // eventfd: readable from Close on
}

// NewListener makes a Listener of the descriptor that [Install] returned,
// which it owns from then on, also if it fails.
func NewListener(fd int) (*Listener, error) {
	if err := checkSizes(); err != nil {
		unix.Close(fd)
		return nil, err
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make eventfd: %w", err)
	}
	// The waiting task and the reader take turns, so waking each on the other's
	// CPU saves a trip between CPUs. Linux 6.6 and later; others do without.
	_ = unix.IoctlSetInt(fd, unix.SECCOMP_IOCTL_NOTIF_SET_FLAGS, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	wait.Spare()
	return &Listener{fd: fd, wake: wake}, nil
}

// checkSizes refuses a kernel whose structures are smaller than those declared
// here. Larger ones do no harm, since the ioctl numbers carry the size.
func checkSizes() error {
	var s rawSizes
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_NOTIF_SIZES, 0, uintptr(unsafe.Pointer(&s)))
	if e != 0 {
		return fmt.Errorf("ask sizes of seccomp notifications: %w", e)
	}
	if uintptr(s.notif) < unsafe.Sizeof(rawNotif{}) || uintptr(s.resp) < unsafe.Sizeof(rawResp{}) {
		return fmt.Errorf("sizes of seccomp notifications: %w: kernel says %d and %d bytes", errors.ErrUnsupported, s.notif, s.resp)
	}
	return nil
}

// Recv waits for the next call. It returns io.EOF once no task uses the filter
// any more and os.ErrClosed after Close; any other error is final as well.
func (l *Listener) Recv() (Notif, error) {
	l.recv.Lock()
	defer l.recv.Unlock()
	l.mu.RLock()
	defer l.mu.RUnlock()
	for {
		if l.closing.Load() {
			return Notif{}, os.ErrClosed
		}
		fds := [2]unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}, {Fd: int32(l.wake), Events: unix.POLLIN}}
		if err := wait.Poll(fds[:]); err != nil {
			return Notif{}, fmt.Errorf("wait for seccomp notification: %w", err)
		}
		switch ev := fds[0].Revents; {
		case fds[1].Revents != 0:
			continue
		case ev&unix.POLLIN != 0:
		case ev&unix.POLLHUP != 0: // Linux 5.9
			return Notif{}, io.EOF
		default:
			return Notif{}, fmt.Errorf("wait for seccomp notification: poll events %#x", ev)
		}
		var raw rawNotif // the kernel insists on zeroes
		switch err := ioctl(l.fd, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&raw)); err {
		case nil:
			return Notif{ID: raw.id, TID: int(raw.pid), nr: raw.nr, arch: raw.arch, args: raw.args}, nil
		case unix.EINTR, unix.ENOENT: // ENOENT: the task was gone before it was picked up
		default:
			return Notif{}, fmt.Errorf("receive seccomp notification: %w", err)
		}
	}
}

// Valid reports whether the task still waits for the answer to call id. As long
// as it does, its TID, descriptors and memory are its own; what was read of
// them before is to be believed only if Valid says so afterwards.
func (l *Listener) Valid(id uint64) bool {
	return l.do(unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id)) == nil
}

// Continue lets the kernel carry out the call as if there were no filter. It
// reads the arguments anew, so this is no way to allow what was looked at.
// The error wraps ErrGone if the task no longer waits.
func (l *Listener) Continue(id uint64) error {
	return l.send(rawResp{id: id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE})
}

// Return ends the call with value val, or with error e if that isn't 0. The
// error wraps ErrGone if the task no longer waits.
func (l *Listener) Return(id uint64, val int64, e errno.Errno) error {
	if e != 0 {
		val = 0
	}
	return l.send(rawResp{id: id, val: val, err: -int32(e)})
}

func (l *Listener) send(r rawResp) error {
	if err := l.do(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)); err != nil {
		return fmt.Errorf("answer seccomp notification: %w", err)
	}
	return nil
}

// AddFD describes how a descriptor is put into a task.
type AddFD struct {
	Replace     bool // at number Target, closing what the task has there, as dup2 would
	Target      int
	CloseOnExec bool
	Send        bool // end the call with the new number as its value (Linux 5.14)
}

// AddFD puts a copy of fd, which stays the caller's, into the task that waits
// in call id, and returns its number there. The error wraps ErrGone if the task
// no longer waits, or the kernel's number, such as EMFILE.
func (l *Listener) AddFD(id uint64, fd int, how AddFD) (int, error) {
	r := rawAddFD{id: id, srcfd: uint32(fd)}
	if how.Replace {
		r.flags |= unix.SECCOMP_ADDFD_FLAG_SETFD
		r.newfd = uint32(how.Target)
	}
	if how.Send {
		r.flags |= unix.SECCOMP_ADDFD_FLAG_SEND
	}
	if how.CloseOnExec {
		r.newfdFlags = unix.O_CLOEXEC
	}
	n, err := l.doValue(unix.SECCOMP_IOCTL_NOTIF_ADDFD, unsafe.Pointer(&r))
	if err != nil {
		return -1, fmt.Errorf("put descriptor into task: %w", err)
	}
	return n, nil
}

// Close ends the Listener. Recv returns, tasks that wait and calls made later
// get ENOSYS (unless a copy of the descriptor is left elsewhere). Closing twice
// does nothing.
func (l *Listener) Close() error {
	if l.closing.Swap(true) {
		return nil
	}
	// The counter can't be full: this is the only write.
	_, err := unix.Write(l.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	l.mu.Lock()
	defer l.mu.Unlock()
	err = errors.Join(err, unix.Close(l.fd), unix.Close(l.wake))
	l.fd, l.wake = -1, -1
	return err
}

func (l *Listener) do(req uint, arg unsafe.Pointer) error {
	_, err := l.doValue(req, arg)
	return err
}

func (l *Listener) doValue(req uint, arg unsafe.Pointer) (int, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closing.Load() {
		return -1, os.ErrClosed
	}
	for {
		n, err := ioctlValue(l.fd, req, arg)
		switch err {
		case unix.EINTR: // AddFD was interrupted while the task took the descriptor: nothing was put
			continue
		case unix.ENOENT, unix.EINPROGRESS: // EINPROGRESS: answered already
			err = ErrGone
		}
		return n, err
	}
}

func ioctl(fd int, req uint, arg unsafe.Pointer) error {
	_, err := ioctlValue(fd, req, arg)
	return err
}

func ioctlValue(fd int, req uint, arg unsafe.Pointer) (int, error) {
	n, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(arg))
	if e != 0 {
		return -1, e
	}
	return int(n), nil
}
