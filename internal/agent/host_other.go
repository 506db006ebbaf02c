//go:build !linux && !windows

package agent

import (
	"context"
	"errors"
	"net"

	"drvsock/internal/wire"
)

// host stands where no agent has been written yet.
type host struct{}

type socket struct{}

func newHost(Config) (*host, error) { return nil, errors.ErrUnsupported }

func (*host) dial(context.Context, []byte, connectOptions) (*net.UnixConn, error) {
	return nil, errors.ErrUnsupported
}

func (*host) bind(_, _ []byte, _ bindOptions) (*socket, error) { return nil, errors.ErrUnsupported }

func (*host) stat([]byte) (wire.Stat, error) { return wire.Stat{}, errors.ErrUnsupported }

func (*host) unlink([]byte) error { return errors.ErrUnsupported }

func (*socket) listen(int) error { return errors.ErrUnsupported }

func (*socket) accept() (*net.UnixConn, []byte, error) { return nil, nil, errors.ErrUnsupported }

func (*socket) connect(context.Context, []byte, connectOptions) (*net.UnixConn, error) {
	return nil, errors.ErrUnsupported
}

func (*socket) close() {}

func (*socket) at(*host, []byte) bool { return false }

func (*socket) removeOwn() error { return nil }
