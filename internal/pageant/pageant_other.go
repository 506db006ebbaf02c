//go:build !windows

package pageant

import (
	"context"
	"log/slog"
	"net"

	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// listener is of no use here: there is none.
type listener struct{}

func refused() error {
	return errno.Errorf(errno.EAFNOSUPPORT, errno.LayerHost, "Pageant is a program of Windows")
}

func dial(context.Context) (Conn, error) { return nil, refused() }

func listen(*slog.Logger) (*listener, error) { return nil, refused() }

func (*listener) accept() (Conn, wire.Caller, error) { return nil, wire.Caller{}, net.ErrClosed }

func (*listener) close() error { return nil }
