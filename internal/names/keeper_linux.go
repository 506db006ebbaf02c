package names

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"drvsock/internal/errno"
	"drvsock/internal/seccomp"

	"golang.org/x/sys/unix"
)

// Command is the first argument with which a Keeper starts this program anew.
// main looks for it before anything else and then leaves everything to [Main].
const Command = "__names"

// replyTimeout bounds the wait for a reply, which takes some 20 microseconds on
// an idle machine.
const replyTimeout = 20 * time.Second

// closeTimeout bounds how long Close waits for the process before it kills it.
const closeTimeout = 2 * time.Second

// A Spawner starts argv[0] with the arguments argv, the descriptors files as 0,
// 1, 2 …, no others, and attr. It doesn't close files. wait blocks until the
// process has ended; kill ends it.
type Spawner func(argv []string, files []*os.File, attr *syscall.SysProcAttr) (wait func() error, kill func(), err error)

// A Keeper owns a process that names sockets. Its methods may be called from
// several goroutines; binds are carried out one after the other.
type Keeper struct {
	log  *slog.Logger
	kill func()
	done chan struct{} // closed when the process has ended

	mu     sync.Mutex
	sock   int // -1 once closed
	reply  [maxReply]byte
	broken error // why no bind is possible any more
}

// Start starts a keeper, by spawn or by [os.StartProcess] if that is nil, and
// waits until it is ready, a few milliseconds. A nil log discards.
//
// Without CAP_SYS_ADMIN and CAP_SYS_CHROOT the process gets a user namespace, in
// which it may make the mount namespace that it lives in. If the system refuses
// either, the error is an *Unavailable, which wraps ErrUnavailable.
//
// The process ends when the Keeper is closed and when the caller's process
// ends, however it does: it waits for requests on a socket whose only other
// end is here. PR_SET_PDEATHSIG would add nothing and would kill it when the
// thread that happened to start it ends.
func Start(spawn Spawner, log *slog.Logger) (*Keeper, error) {
	if spawn == nil {
		spawn = startProcess
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket pair for name keeper: %w", err)
	}
	k := &Keeper{log: log, sock: pair[0], done: make(chan struct{})}
	if err := k.start(spawn, os.NewFile(uintptr(pair[1]), "name keeper")); err != nil {
		unix.Close(pair[0])
		return nil, err
	}
	if err := k.greet(); err != nil {
		k.Close()
		return nil, err
	}
	return k, nil
}

// start owns theirs.
func (k *Keeper) start(spawn Spawner, theirs *os.File) error {
	defer theirs.Close()
	tv := unix.NsecToTimeval(replyTimeout.Nanoseconds())
	for _, opt := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(k.sock, unix.SOL_SOCKET, opt, &tv); err != nil {
			return fmt.Errorf("set timeout of name keeper: %w", err)
		}
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	attr := sysProcAttr()
	wait, kill, err := spawn([]string{"/proc/self/exe", Command}, []*os.File{null, null, null, theirs}, attr)
	if err != nil {
		step := "start process"
		if attr.Cloneflags != 0 {
			step += " in user namespace"
		}
		return unavailable(step, err)
	}
	k.kill = kill
	go func() {
		defer close(k.done)
		if err := wait(); err != nil {
			k.log.Debug("name keeper ended", "err", err)
		}
	}()
	return nil
}

// greet waits for the process to have made its world.
func (k *Keeper) greet() error {
	step, e, fd, err := k.receive()
	if err != nil {
		return unavailable("start name keeper", err)
	}
	if fd >= 0 {
		unix.Close(fd)
	}
	if e != 0 {
		return unavailable(step, e)
	}
	return nil
}

// Bind binds socket fd, which stays the caller's, to exactly the bytes of
// sockaddr, a sockaddr_un with a path as the program passed it: absolute or
// relative, with or without a final NUL. The folders in it needn't exist. From
// then on getsockname of the socket, and getpeername and accept of its peers,
// return what they would after bind(2) with these bytes.
//
// Every Bind makes a name of its own, even if the bytes are the same, so there
// is no EADDRINUSE, save for paths that can be no new file, such as "/".
//
// The error is *errno.Error with what the kernel's bind gave (EINVAL for a
// socket that has a name or isn't AF_UNIX, or for a sockaddr without a path), or wraps
// ErrUnavailable if the keeper has ended.
func (k *Keeper) Bind(fd int, sockaddr []byte) (*Name, error) {
	if _, ok := sockaddrPath(sockaddr); !ok {
		return nil, errno.Errorf(errno.EINVAL, errno.LayerGuest, "socket address without a path, of %d bytes", len(sockaddr))
	}
	if fd < 0 {
		return nil, errno.Errorf(errno.EBADF, errno.LayerGuest, "descriptor %d", fd)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.broken != nil {
		return nil, k.broken
	}
	if err := seccomp.SendFD(k.sock, sockaddr, fd); err != nil {
		if errors.Is(err, unix.EBADF) {
			return nil, errno.Errorf(errno.EBADF, errno.LayerGuest, "descriptor %d", fd)
		}
		return nil, k.fail("ask name keeper", err)
	}
	step, e, node, err := k.receive()
	if err != nil {
		return nil, k.fail("ask name keeper", err)
	}
	switch {
	case e != 0:
		if node >= 0 {
			unix.Close(node)
		}
		return nil, errno.Errorf(errno.Errno(e), errno.LayerGuest, "%s", step)
	case node < 0:
		return nil, k.fail("ask name keeper", errors.New("reply without descriptor"))
	}
	return &Name{fd: node}, nil
}

func (k *Keeper) receive() (step string, e unix.Errno, fd int, err error) {
	n, fd, err := seccomp.RecvFD(k.sock, k.reply[:])
	if err != nil {
		return "", 0, -1, err
	}
	step, e, err = parseReply(k.reply[:n])
	if err != nil && fd >= 0 {
		unix.Close(fd)
	}
	return step, e, fd, err
}

// fail ends the conversation: after a lost reply the next one would be taken
// for an answer to another question. mu is held.
func (k *Keeper) fail(step string, err error) error {
	k.broken = unavailable(step, err)
	k.log.Warn("name keeper lost", "err", err)
	k.kill()
	return k.broken
}

// Done is closed when the process has ended.
func (k *Keeper) Done() <-chan struct{} { return k.done }

// Close ends the process and waits until it has ended. The names made so far
// stay in force. Closing twice does nothing.
func (k *Keeper) Close() error {
	k.mu.Lock()
	if k.sock < 0 {
		k.mu.Unlock()
		return nil
	}
	unix.Close(k.sock)
	k.sock = -1
	if k.broken == nil {
		k.broken = unavailable("ask name keeper", os.ErrClosed)
	}
	k.mu.Unlock()
	select {
	case <-k.done:
	case <-time.After(closeTimeout):
		k.kill()
		<-k.done
	}
	return nil
}

// A Name is the handle of a name that a socket was given: an O_PATH descriptor
// of its inode, close-on-exec.
type Name struct {
	mu     sync.Mutex
	fd     int // -1 once closed
	users  int // calls of Use under way
	closed bool
}

// Use calls fn with a path by which this process can connect to the socket once
// it listens: /proc/self/fd/N. A connection's name on the peer's side is still
// the one that Bind gave. The path leads there until fn returns, whoever calls
// Close meanwhile; afterwards the number may be another file's. A closed Name
// gives unix.ECONNREFUSED, as the file of a closed socket does.
func (n *Name) Use(fn func(path string) error) error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return unix.ECONNREFUSED
	}
	n.users++
	path := "/proc/self/fd/" + strconv.Itoa(n.fd)
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.users--
		_ = n.release()
	}()
	return fn(path)
}

// release closes the descriptor once nobody wants it any more. mu is held.
func (n *Name) release() error {
	if !n.closed || n.users > 0 || n.fd < 0 {
		return nil
	}
	err := unix.Close(n.fd)
	n.fd = -1
	return err
}

// Close gives the handle up. The socket keeps its name and its connections, but
// nobody can connect to it any more. Closing twice does nothing.
func (n *Name) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	return n.release()
}
