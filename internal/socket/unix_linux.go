package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/afunix"
	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// backlog is cut to net.core.somaxconn by the kernel.
const backlog = 4096

func dialUnix(ctx context.Context, path string) (Conn, error) {
	name, isAbstract := strings.CutPrefix(path, "@")
	switch {
	case isAbstract:
		name = "\x00" + name
	case !isPath(path):
		return nil, noPath(path)
	}
	fd, err := afunix.NewSocket()
	if err != nil {
		return nil, err
	}
	c, err := afunix.DialFrom(ctx, fd, name, afunix.Wait{})
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("connect %s: %w", path, unix.EAGAIN)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// isPath reports whether the kernel takes all of path for an absolute path.
func isPath(path string) bool {
	return strings.HasPrefix(path, "/") && !strings.Contains(path, "\x00")
}

func noPath(path string) error {
	return refuse(errno.EINVAL, "%q is no absolute path", path)
}

// unixListener is a listening socket and the file that goes with it.
type unixListener struct {
	l    *net.UnixListener
	addr string
	id   afunix.Identity                        // of the file; unknown for an abstract name
	may  func(uid uint32, groups []uint32) bool // nil for a file, of which the kernel decides
	o    Options

	once sync.Once
	err  error
}

func listenUnix(path string, o Options) (Listener, error) {
	if strings.HasPrefix(path, "@") {
		return listenAbstract(path, o)
	}
	dir, base := filepath.Split(path)
	if !isPath(path) || base == "" {
		return nil, noPath(path)
	}
	folder, err := openFolder(dir, o.Replace)
	if err != nil {
		return nil, fmt.Errorf("bind %s: %w", path, err)
	}
	defer unix.Close(folder) // and its lock
	b := &binding{folder: folder, base: base, path: path, options: o}
	return b.listen()
}

// openFolder opens a folder and, where it may be read, locks it if asked to: of
// two processes that find the same stale file only one at a time acts on it.
func openFolder(dir string, lock bool) (int, error) {
	const flags = unix.O_DIRECTORY | unix.O_CLOEXEC
	if lock {
		if fd, err := unix.Open(dir, unix.O_RDONLY|flags, 0); err == nil {
			// Who holds it for longer is not one of us, and isn't waited for.
			for range 20 {
				if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != unix.EWOULDBLOCK {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			return fd, nil
		}
	}
	return unix.Open(dir, unix.O_PATH|flags, 0)
}

func listenAbstract(name string, o Options) (Listener, error) {
	fd, err := afunix.NewSocket()
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	if err := afunix.Bind(fd, "\x00"+name[1:]); err != nil {
		if err == unix.EADDRINUSE {
			return nil, taken(name, livesAt("\x00"+name[1:]))
		}
		return nil, fmt.Errorf("bind %s: %w", name, err)
	}
	l, err := start(f)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", name, err)
	}
	return &unixListener{l: l, addr: name, may: byMode(o), o: o}, nil
}

// byMode does for an abstract name, which has no permissions of its own, what
// the kernel does for a file.
func byMode(o Options) func(uid uint32, groups []uint32) bool {
	owner, group := uint32(os.Geteuid()), uint32(os.Getegid())
	if o.UID >= 0 {
		owner = uint32(o.UID)
	}
	if o.GID >= 0 {
		group = uint32(o.GID)
	}
	return func(uid uint32, groups []uint32) bool {
		switch {
		case uid == 0:
			return true
		case uid == owner:
			return o.Mode&0o200 != 0
		case slices.Contains(groups, group):
			return o.Mode&0o020 != 0
		}
		return o.Mode&0o002 != 0
	}
}

// start makes the bound socket f listen. f stays the caller's.
func start(f *os.File) (*net.UnixListener, error) {
	if err := unix.Listen(int(f.Fd()), backlog); err != nil {
		return nil, err
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	u := l.(*net.UnixListener)
	u.SetUnlinkOnClose(false)
	return u, nil
}

func (l *unixListener) Accept() (Conn, Peer, error) {
	for {
		c, err := l.l.AcceptUnix()
		if err != nil {
			return nil, Peer{}, err
		}
		peer := Peer{Caller: unixCaller(c)}
		if l.may != nil && !l.may(peer.Caller.UID, append(peerGroups(c), peer.Caller.GID)) {
			l.refused(peer.Caller)
			_ = c.Close()
			continue
		}
		_ = afunix.Control(c, func(fd int) (err error) {
			peer.Name, err = afunix.PeerName(fd)
			return err
		})
		return c, peer, nil
	}
}

func (l *unixListener) refused(who wire.Caller) {
	if l.o.Refused != nil {
		l.o.Refused(who, refuse(errno.EACCES, "uid %d may not connect: the mode is %#o", who.UID, l.o.Mode.Perm()))
		return
	}
	l.o.Log.Info("connection refused", "listener", l.addr, "uid", who.UID, "pid", who.PID)
}

func (l *unixListener) Addr() string { return l.addr }

// Lost is for a Listener that has a file.
func (l *unixListener) Lost() error {
	if !l.id.Known() {
		return nil
	}
	switch now, err := afunix.Identify(unix.AT_FDCWD, l.addr); {
	case err == unix.ENOENT, err == unix.ENOTDIR, err == nil && now != l.id, err == unix.ENOTSOCK:
		return lost(l.addr)
	}
	return nil
}

// Close removes the file first: as long as the socket is open, no other file can
// get its identity.
func (l *unixListener) Close() error {
	l.once.Do(func() {
		if l.id.Known() {
			l.err = remove(unix.AT_FDCWD, l.addr, l.id)
		}
		l.err = errors.Join(l.err, l.l.Close())
	})
	return l.err
}

// remove unlinks the socket name in folder if it is the one with the identity.
func remove(folder int, name string, id afunix.Identity) error {
	if now, err := afunix.Identify(folder, name); err != nil || now != id {
		return nil
	}
	if err := unix.Unlinkat(folder, name, 0); err != nil && err != unix.ENOENT {
		return fmt.Errorf("unlink %s: %w", name, err)
	}
	return nil
}
