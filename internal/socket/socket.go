// Package socket connects to and listens on endpoints of this system, of every
// kind that an endpoint's name can mean. What a system lacks it refuses with
// EAFNOSUPPORT.
package socket

import (
	"context"
	"io/fs"
	"log/slog"
	"net"

	"drvsock/internal/endpoint"
	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// A Conn is a connection that can be half-closed. CloseWrite never waits for
// the peer. A pipe in byte mode has no half-close: its CloseWrite does nothing,
// and the other direction goes on until the whole connection is closed.
//
// A Conn may have the methods that package relay asks for besides.
type Conn interface {
	net.Conn
	CloseWrite() error
}

// A Peer is who connected.
type Peer struct {
	// Name is what the connecting socket is bound to, empty for nothing. An
	// abstract one begins with NUL.
	Name []byte
	// Caller is the program, as far as the system tells: PID 0 and no Program
	// where it doesn't, UID and GID NoID.
	Caller wire.Caller
}

// NoID is the user or group of a caller that is unknown, or of one on Windows,
// where Caller.User has the account.
const NoID = ^uint32(0)

// unknown is the caller of whom the system tells nothing.
func unknown() wire.Caller { return wire.Caller{UID: NoID, GID: NoID} }

// Options say what Listen makes.
type Options struct {
	// Mode is the file's permission bits, on Linux. 0 means 0600.
	Mode fs.FileMode
	// UID and GID own the file, on Linux; -1 keeps what the system gives it.
	// Nobody can connect before mode and owner are as they shall be.
	UID, GID int
	// Access names the accounts that may connect besides this process's own, on
	// Windows: DOMAIN\name, name, or a SID.
	Access []string
	// Message makes a pipe one of messages, which can be half-closed.
	Message bool
	// Replace removes a stale file of a socket first: a socket, of the account
	// that the new one is for, on which nobody listens.
	Replace bool
	Log     *slog.Logger // nil discards
	// Refused, if not nil, hears of each client that Mode keeps out where the
	// listener checks that itself, on an abstract name, and why; else the log does.
	Refused func(who wire.Caller, why error)
}

// A Listener takes connections. One that has a file on Linux also has Lost() error,
// which tells why nobody can connect by its name any more: somebody has removed the
// file, or has put another in its place. It is nil where that can't be told.
type Listener interface {
	// Accept waits for a connection. Close ends it with net.ErrClosed; after
	// other errors it may be called again.
	Accept() (Conn, Peer, error)
	// Addr is the address as an endpoint's Path has it, with the port that the
	// system chose where 0 was asked for.
	Addr() string
	// Close stops listening and removes what Listen made if it still is that.
	// Connections live on. It may be called again.
	Close() error
}

// Dial connects to n on this system, whatever n.Side. While a Unix socket's
// backlog is full or a pipe has no free instance it waits, until ctx ends: with
// EAGAIN if that was by its deadline. Errors carry a number as for
// errno.FromSystem.
func Dial(ctx context.Context, n endpoint.Name) (Conn, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	switch n.Network {
	case wire.NetUnix:
		return dialUnix(ctx, n.Path)
	case wire.NetPipe:
		return dialPipe(ctx, n.Path)
	case wire.NetAssuan:
		return dialAssuan(ctx, n.Path)
	case wire.NetCygwin:
		return dialCygwin(ctx, n.Path)
	case wire.NetPageant:
		return dialPageant(ctx)
	case wire.NetTCP:
		return dialTCP(ctx, n.Path)
	}
	return nil, lacks(n.Network)
}

// Listen listens on n on this system, whatever n.Side. Errors are as Dial's; a
// name that is taken is EADDRINUSE, with a sentence that says by whom.
func Listen(n endpoint.Name, o Options) (Listener, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Mode == 0 {
		o.Mode = 0o600
	}
	switch n.Network {
	case wire.NetUnix:
		return listenUnix(n.Path, o)
	case wire.NetPipe:
		return listenPipe(n.Path, o)
	case wire.NetAssuan:
		return listenAssuan(n.Path, o)
	case wire.NetCygwin:
		return listenCygwin(n.Path, o)
	case wire.NetPageant:
		return listenPageant(o)
	case wire.NetTCP:
		return listenTCP(n.Path)
	}
	return nil, lacks(n.Network)
}

func lacks(n wire.Network) error {
	return refuse(errno.EAFNOSUPPORT, "this system has no endpoints of the kind %s", n)
}
