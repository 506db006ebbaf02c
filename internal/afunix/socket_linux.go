package afunix

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MaxName is the size of sun_path. A name may fill it without a final NUL
// (man 7 unix), which package x/sys refuses; it also takes a leading '@' for
// an abstract name. So names go to the kernel as they are.
const MaxName = len(unix.RawSockaddrUnix{}.Path)

// NewSocket returns a non-blocking stream socket that no child inherits and no
// descriptors arrive at, see [RefuseRights].
func NewSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	RefuseRights(fd)
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

// Bind is bind(2) with a name of 1 to [MaxName] bytes.
func Bind(fd int, name string) error {
	return withName(unix.SYS_BIND, fd, name)
}

// Connect is connect(2), begun again after a signal.
func Connect(fd int, name string) error {
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

// PeerName returns the bytes of the name that the other end is bound to. An
// abstract one begins with NUL.
func PeerName(fd int) ([]byte, error) {
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

// Control calls fn with the descriptor of c, which stays c's.
func Control(c syscall.Conn, fn func(fd int) error) error {
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

// OnOwnThread calls fn on a thread with a working directory and umask of its
// own, so that fn may change them. The thread ends afterwards.
func OnOwnThread(fn func() error) error {
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

// TakeOwner makes the calling thread, which is to end, create files of another
// account; -1 keeps an id. It keeps root's way past permissions: whether the
// account itself may make the file is the caller's to decide. Without the right
// to do so it does nothing, and says nothing (man 2 setfsuid).
func TakeOwner(uid, gid int) error {
	if unix.Geteuid() != 0 || uid < 0 && gid < 0 {
		return nil
	}
	if gid >= 0 {
		if _, _, e := unix.RawSyscall(unix.SYS_SETFSGID, uintptr(gid), 0, 0); e != 0 {
			return e
		}
	}
	if uid >= 0 {
		if _, _, e := unix.RawSyscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0); e != 0 {
			return e
		}
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
