//go:build !linux && !windows

package agent

import (
	"context"
	"errors"
	"net"

	"drvsock/internal/afunix"
	"drvsock/internal/relay"
	"drvsock/internal/wire"
)

// host stands where no agent has been written yet.
type host struct{}

type unixSocket struct{}

func newHost(Config) (*host, error) { return nil, errors.ErrUnsupported }

func (*host) file(string) (string, error) { return "", errors.ErrUnsupported }

func (*host) dial(context.Context, []byte, afunix.Wait) (relay.Conn, error) {
	return nil, errors.ErrUnsupported
}

func (*host) bind(_, _ []byte, _ bindOptions) (*unixSocket, error) { return nil, errors.ErrUnsupported }

func (*host) stat([]byte) (wire.Stat, error) { return wire.Stat{}, errors.ErrUnsupported }

func (*host) unlink([]byte) error { return errors.ErrUnsupported }

func (*unixSocket) listen(int) error { return errors.ErrUnsupported }

func (*unixSocket) accept() (*net.UnixConn, []byte, error) { return nil, nil, errors.ErrUnsupported }

func (*unixSocket) connect(context.Context, []byte, afunix.Wait) (relay.Conn, error) {
	return nil, errors.ErrUnsupported
}

func (*unixSocket) close() {}

func (*unixSocket) at(*host, []byte) bool { return false }

func (*unixSocket) removeOwn() error { return nil }
