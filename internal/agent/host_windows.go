package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/windows"

	"drvsock/internal/afunix"
	"drvsock/internal/errno"
	"drvsock/internal/relay"
	"drvsock/internal/wire"
)

// host is this Windows.
type host struct {
	log *slog.Logger
}

func newHost(cfg Config) (*host, error) { return &host{log: cfg.Log}, nil }

// file checks the path of a file.
func (h *host) file(path string) (string, error) {
	return afunix.CheckWindowsPath([]byte(strings.ReplaceAll(path, "/", `\`)))
}

// dial connects a new socket to the one at path. opt has no meaning here: a
// Windows listener whose backlog is full refuses at once.
func (h *host) dial(ctx context.Context, path []byte, _ afunix.Wait) (relay.Conn, error) {
	file, err := afunix.CheckWindowsPath(path)
	if err != nil {
		return nil, err
	}
	c, err := afunix.Dial(ctx, nil, file)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// bind makes a socket whose file is path. A Windows program sees that path as
// its name; there are no permission bits and no other owner.
func (h *host) bind(path, _ []byte, _ bindOptions) (*unixSocket, error) {
	file, err := afunix.CheckWindowsPath(path)
	if err != nil {
		return nil, err
	}
	raw, err := afunix.NewSocket()
	if err != nil {
		return nil, err
	}
	err = afunix.WithShort(file, func(name string) error {
		return windows.Bind(raw, &windows.SockaddrUnix{Name: name})
	})
	if err != nil {
		_ = windows.Closesocket(raw)
		return nil, afunix.Refused(errno.OpBind, file, fmt.Errorf("bind %s: %w", file, err))
	}
	s := &unixSocket{host: h, file: file, raw: raw}
	s.know()
	return s, nil
}

// stat says what lies at path itself.
func (h *host) stat(path []byte) (wire.Stat, error) {
	file, err := afunix.CheckWindowsPath(path)
	if err != nil {
		return wire.Stat{}, err
	}
	st, err := os.Lstat(file)
	if errors.Is(err, windows.ERROR_CANT_ACCESS_FILE) {
		return wire.Stat{Socket: true}, nil
	}
	if err != nil {
		return wire.Stat{}, afunix.Refused(errno.OpStat, file, err)
	}
	return wire.Stat{
		Socket: st.Mode()&fs.ModeSocket != 0,
		Dir:    st.IsDir(),
		Size:   uint64(max(st.Size(), 0)),
	}, nil
}

// unlink removes the socket at path, and nothing but a socket.
func (h *host) unlink(path []byte) error {
	file, err := afunix.CheckWindowsPath(path)
	if err != nil {
		return err
	}
	switch afunix.KindOf(file) {
	case afunix.KindFolder:
		return errno.Errorf(errno.EISDIR, errno.LayerAgent, "%s is a folder", file)
	case afunix.KindFile:
		return errno.Errorf(errno.ENOTSOCK, errno.LayerAgent, "%s is no socket", file)
	}
	if err := afunix.Remove(file); err != nil {
		return afunix.Refused(errno.OpUnlink, file, err)
	}
	return nil
}
