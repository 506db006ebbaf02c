package agent

import (
	"context"
	"log/slog"

	"drvsock/internal/afunix"
	"drvsock/internal/errno"
	"drvsock/internal/relay"
	"drvsock/internal/socket"
)

// held is what a handle stands for: the socket of a program on the guest, or a
// listener of package socket.
type held interface {
	// listen begins to take connections, or changes how many may wait.
	listen(backlog int) error
	// accept waits for a connection. close ends it with net.ErrClosed.
	accept() (relay.Conn, socket.Peer, error)
	// connect connects the socket itself.
	connect(ctx context.Context, path []byte, opt afunix.Wait) (relay.Conn, error)
	// at reports whether path leads to the file that was made.
	at(h *host, path []byte) bool
	// removeOwn removes the file if it is the one that was made.
	removeOwn() error
	// close ends the socket, and leaves the file if that is what an operating
	// system does with a program's socket. It may be called twice.
	close()
}

// bindOptions say what the file of a new socket is to look like, where files
// have such properties.
type bindOptions struct {
	mode  uint32 // permission bits, with any umask already taken off
	owner *owner // nil for the agent's own account
}

// owner is an account of this system.
type owner struct{ uid, gid uint32 }

// program is the socket of a program on the guest.
type program struct{ *unixSocket }

func (p program) accept() (relay.Conn, socket.Peer, error) {
	c, name, err := p.unixSocket.accept()
	if err != nil {
		return nil, socket.Peer{}, err
	}
	return c, socket.Peer{Name: name}, nil
}

func (p program) connect(ctx context.Context, path []byte, opt afunix.Wait) (relay.Conn, error) {
	c, err := p.unixSocket.connect(ctx, path, opt)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// listening is a listener as a handle has it. Nothing of it outlives the handle:
// it is no program's, which could find its file or remove it.
type listening struct {
	socket.Listener
	log *slog.Logger
}

func (listening) listen(int) error { return nil }

func (l listening) accept() (relay.Conn, socket.Peer, error) {
	c, peer, err := l.Accept()
	if err != nil {
		return nil, peer, err
	}
	return c, peer, nil
}

func (l listening) connect(context.Context, []byte, afunix.Wait) (relay.Conn, error) {
	return nil, errno.Errorf(errno.EINVAL, errno.LayerAgent, "%s listens", l.Addr())
}

func (listening) at(*host, []byte) bool { return false }

func (listening) removeOwn() error { return nil }

func (l listening) close() {
	if err := l.Close(); err != nil {
		l.log.Warn("close of a listener", "address", l.Addr(), "error", err)
	}
}

// abort closes conn so that the other end sees a failure where the system has a
// way to say so.
func abort(conn relay.Conn) {
	if a, ok := conn.(interface{ Abort() }); ok {
		a.Abort()
	} else {
		reset(conn)
	}
	_ = conn.Close()
}
