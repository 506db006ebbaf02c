package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/windows"

	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// maxName is the longest name of a socket in bytes of UTF-8: sun_path has 108
// (afunix.h), and Winsock wants a final NUL.
const maxName = 107

// host is this Windows.
type host struct {
	log *slog.Logger
}

func newHost(cfg Config) (*host, error) { return &host{log: cfg.Log}, nil }

// dial connects a new socket to the one at path. opt has no meaning here: a
// Windows listener whose backlog is full refuses at once.
func (h *host) dial(ctx context.Context, path []byte, _ connectOptions) (*net.UnixConn, error) {
	file, err := checkWindowsPath(path)
	if err != nil {
		return nil, err
	}
	return h.dialFrom(ctx, nil, file)
}

// dialFrom dials file, from a socket bound to local if that isn't nil. Package
// net leaves a dial of a Unix socket to one blocking call, so that is waited
// for beside ctx.
func (h *host) dialFrom(ctx context.Context, local *net.UnixAddr, file string) (*net.UnixConn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		r.err = withShort(file, func(name string) (err error) {
			var d net.Dialer
			if local != nil {
				d.LocalAddr = local
			}
			r.conn, err = d.DialContext(ctx, "unix", name)
			return err
		})
		done <- r
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, refused(errno.OpConnect, file, r.err)
		}
		return r.conn.(*net.UnixConn), nil
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				_ = r.conn.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// bind makes a socket whose file is path. A Windows program sees that path as
// its name; there are no permission bits and no other owner.
func (h *host) bind(path, _ []byte, _ bindOptions) (*socket, error) {
	file, err := checkWindowsPath(path)
	if err != nil {
		return nil, err
	}
	raw, err := newSocket()
	if err != nil {
		return nil, err
	}
	err = withShort(file, func(name string) error {
		return windows.Bind(raw, &windows.SockaddrUnix{Name: name})
	})
	if err != nil {
		_ = windows.Closesocket(raw)
		return nil, refused(errno.OpBind, file, fmt.Errorf("bind %s: %w", file, err))
	}
	s := &socket{host: h, file: file, raw: raw}
	s.know()
	return s, nil
}

// stat says what lies at path itself.
func (h *host) stat(path []byte) (wire.Stat, error) {
	file, err := checkWindowsPath(path)
	if err != nil {
		return wire.Stat{}, err
	}
	st, err := os.Lstat(file)
	if errors.Is(err, windows.ERROR_CANT_ACCESS_FILE) {
		return wire.Stat{Socket: true}, nil
	}
	if err != nil {
		return wire.Stat{}, refused(errno.OpStat, file, err)
	}
	return wire.Stat{
		Socket: st.Mode()&fs.ModeSocket != 0,
		Dir:    st.IsDir(),
		Size:   uint64(max(st.Size(), 0)),
	}, nil
}

// unlink removes the socket at path, and nothing but a socket.
func (h *host) unlink(path []byte) error {
	file, err := checkWindowsPath(path)
	if err != nil {
		return err
	}
	switch kindOf(file) {
	case kindFolder:
		return errno.Errorf(errno.EISDIR, errno.LayerAgent, "%s is a folder", file)
	case kindFile:
		return errno.Errorf(errno.ENOTSOCK, errno.LayerAgent, "%s is no socket", file)
	}
	if err := remove(file); err != nil {
		return refused(errno.OpUnlink, file, err)
	}
	return nil
}

func remove(file string) error {
	name, err := windows.UTF16PtrFromString(extended(file))
	if err != nil {
		return fmt.Errorf("unlink %s: %w", file, err)
	}
	// DeleteFile removes the reparse point itself.
	if err := windows.DeleteFile(name); err != nil {
		return fmt.Errorf("unlink %s: %w", file, err)
	}
	return nil
}

// refused makes the answer to a call on file that the system refused.
func refused(op errno.Op, file string, err error) error {
	e := *errno.FromSystem(err, errno.LayerHost)
	if e.Layer == errno.LayerHost {
		e.Errno = errno.Refine(op, e.Errno, lookAt(file, kindOf))
	}
	return &e
}

// kindOf looks at a file itself.
func kindOf(file string) fileKind {
	st, err := os.Lstat(file)
	switch {
	case errors.Is(err, windows.ERROR_CANT_ACCESS_FILE):
		// A reparse point that could not be opened as such: afunix's is the
		// one that is met in practice (golang/go 33357).
		return kindSocket
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, windows.ERROR_DIRECTORY):
		return kindMissing
	case err != nil:
		return kindUnknown
	case st.IsDir():
		return kindFolder
	case st.Mode()&fs.ModeSocket != 0:
		return kindSocket
	case st.Mode()&(fs.ModeSymlink|fs.ModeIrregular) != 0:
		// A junction or link: what it leads to decides for a folder.
		if to, err := os.Stat(file); err == nil && to.IsDir() {
			return kindFolder
		}
	}
	return kindFile
}

// folderLock keeps changes of the process's working directory apart. Nothing
// else in the agent has relative paths.
var folderLock sync.Mutex

// withShort calls fn with a name of at most maxName bytes that means file: file
// itself, file with its folder in the 8.3 form, or the last element with its
// folder as the working directory.
func withShort(file string, fn func(name string) error) error {
	if len(file) <= maxName {
		return fn(file)
	}
	dir, base := splitLast(file)
	if short := shortPath(dir) + `\` + base; len(short) <= maxName {
		return fn(short)
	}
	name := `.\` + base
	if len(name) > maxName {
		return errno.Errorf(errno.ENAMETOOLONG, errno.LayerAgent, "%s: a socket's name has at most %d bytes", file, maxName)
	}
	folderLock.Lock()
	defer folderLock.Unlock()
	before, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	defer func() { _ = os.Chdir(before) }() // held open, a folder cannot be removed
	return fn(name)
}
