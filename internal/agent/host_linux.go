package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"drvsock/internal/afunix"
	"drvsock/internal/drive"
	"drvsock/internal/errno"
	"drvsock/internal/relay"
	"drvsock/internal/wire"
)

// host plays a Windows machine whose drives are folders. It is no jail: a link
// within a folder is followed wherever it leads, with the agent's own rights.
type host struct {
	drives map[byte]string // by upper-case letter; absolute
}

func newHost(cfg Config) (*host, error) {
	h := &host{drives: make(map[byte]string, len(cfg.Drives))}
	for letter, dir := range cfg.Drives {
		up := letter &^ 0x20
		if up < 'A' || up > 'Z' {
			return nil, errno.Errorf(errno.EINVAL, errno.LayerAgent, "%q is no drive letter", letter)
		}
		if _, twice := h.drives[up]; twice {
			return nil, errno.Errorf(errno.EINVAL, errno.LayerAgent, "drive %c has two folders", up)
		}
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, fmt.Errorf("folder of drive %c: %w", up, err)
		}
		if st, err := os.Stat(abs); err != nil {
			return nil, fmt.Errorf("folder of drive %c: %w", up, err)
		} else if !st.IsDir() {
			return nil, fmt.Errorf("folder of drive %c: %s: %w", up, abs, unix.ENOTDIR)
		}
		h.drives[up] = abs
	}
	return h, nil
}

// resolve returns the folder and the name that path means. name is "." for the
// root of a drive.
func (h *host) resolve(path []byte) (dir, name string, err error) {
	letter, names, ok := drive.SplitHost(path)
	if !ok {
		return "", "", afunix.BadPath(path)
	}
	dir, ok = h.drives[letter]
	if !ok {
		return "", "", errno.Errorf(errno.ENOENT, errno.LayerAgent, "this host has no drive %c", letter)
	}
	if len(names) == 0 {
		return dir, ".", nil
	}
	for _, n := range names[:len(names)-1] {
		dir += "/" + string(n)
	}
	return dir, string(names[len(names)-1]), nil
}

// file returns the path in this system of a file on a drive.
func (h *host) file(path string) (string, error) {
	dir, name, err := h.resolve([]byte(strings.ReplaceAll(path, "/", `\`)))
	if err != nil {
		return "", err
	}
	return dir + "/" + name, nil
}

// dial connects a new socket to the one at path.
func (h *host) dial(ctx context.Context, path []byte, opt afunix.Wait) (relay.Conn, error) {
	fd, err := afunix.NewSocket()
	if err != nil {
		return nil, err
	}
	return h.connect(ctx, fd, path, opt)
}

// connect owns fd.
func (h *host) connect(ctx context.Context, fd int, path []byte, opt afunix.Wait) (relay.Conn, error) {
	dir, name, err := h.resolve(path)
	if err == nil {
		err = afunix.ConnectFrom(ctx, fd, dir+"/"+name, opt)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return afunix.NewConn(fd), nil
}

// bind makes a socket whose file is path. The socket's own name is name if that
// means the same file, else the whole path.
func (h *host) bind(path, name []byte, opt bindOptions) (*unixSocket, error) {
	dir, base, err := h.resolve(path)
	if err != nil {
		return nil, err
	}
	full := dir + "/" + base
	if base == "." {
		return nil, fmt.Errorf("bind %s: %w", dir, unix.EADDRINUSE)
	}
	folder, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("bind %s: %w", full, err)
	}
	defer unix.Close(folder)
	addr := full
	if len(addr) > afunix.MaxName || string(name) == base {
		addr = base
	}
	fd, err := afunix.NewSocket()
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	err = afunix.OnOwnThread(func() error {
		unix.Umask(int(^opt.mode & 0o777))
		if o := opt.owner; o != nil {
			if err := afunix.TakeOwner(int(o.uid), int(o.gid)); err != nil {
				return fmt.Errorf("take the owner: %w", err)
			}
		}
		if addr == base {
			if err := unix.Fchdir(folder); err != nil {
				return err
			}
		}
		return afunix.Bind(fd, addr)
	})
	if err != nil {
		return nil, fmt.Errorf("bind %s: %w", full, err)
	}
	id, err := afunix.Identify(folder, base)
	if err != nil {
		id = afunix.Identity{} // gone already; nothing to remove later
	}
	l, err := net.FileListener(f) // a duplicate, which doesn't listen yet
	if err != nil {
		if id.Known() {
			_ = unix.Unlinkat(folder, base, 0)
		}
		return nil, fmt.Errorf("adopt socket: %w", err)
	}
	return &unixSocket{host: h, l: l.(*net.UnixListener), file: full, id: id}, nil
}

// stat says what lies at path itself, a link not followed.
func (h *host) stat(path []byte) (wire.Stat, error) {
	dir, name, err := h.resolve(path)
	if err != nil {
		return wire.Stat{}, err
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir+"/"+name, &st); err != nil {
		return wire.Stat{}, fmt.Errorf("stat %s/%s: %w", dir, name, err)
	}
	return wire.Stat{
		Socket: st.Mode&unix.S_IFMT == unix.S_IFSOCK,
		Dir:    st.Mode&unix.S_IFMT == unix.S_IFDIR,
		Size:   uint64(max(st.Size, 0)),
	}, nil
}

// unlink removes the socket at path, and nothing but a socket.
func (h *host) unlink(path []byte) error {
	dir, name, err := h.resolve(path)
	if err != nil {
		return err
	}
	full := dir + "/" + name
	var st unix.Stat_t
	if err := unix.Lstat(full, &st); err != nil {
		return fmt.Errorf("unlink %s: %w", full, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK, unix.S_IFDIR: // the system never unlinks a folder, and knows why best
	default:
		return errno.Errorf(errno.ENOTSOCK, errno.LayerAgent, "%s is no socket", full)
	}
	if err := unix.Unlink(full); err != nil {
		return fmt.Errorf("unlink %s: %w", full, err)
	}
	return nil
}
