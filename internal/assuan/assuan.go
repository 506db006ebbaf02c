// Package assuan connects with GnuPG by its sockets. Where GnuPG has no Unix
// sockets, on Windows, libassuan makes a file with a TCP port and a nonce instead;
// elsewhere the file can be a socket or name one. Dial takes all of them. Listen
// makes the one for Windows, on every system, so that it can be tried without.
package assuan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"drvsock/internal/cygwin"
	"drvsock/internal/cygwin/portfile"
	"drvsock/internal/wire"
)

// A Conn is a *net.TCPConn or a *net.UnixConn. Nothing of the greeting is left in
// it.
type Conn interface {
	net.Conn
	CloseWrite() error
}

// Options are about the file that Listen makes.
type Options = portfile.Options

// A Listener listens by a file of libassuan's form for Windows. Nothing is known
// of its callers but that they can read the file.
type Listener = portfile.Listener

// Dial connects to what path stands for, which is looked up anew each time: a
// GnuPG that is restarted writes another port. ctx bounds it, and five seconds
// the greeting. A nonce that isn't the server's shows as the connection's end
// only, since the server says nothing to it.
func Dial(ctx context.Context, path string) (Conn, error) {
	if isSocket(path) {
		return dialUnix(ctx, path)
	}
	b, err := portfile.Read(ctx, path)
	if err != nil {
		return nil, err
	}
	f, err := Parse(b)
	if err != nil {
		return nil, portfile.NoStandIn(path, err.Error())
	}
	switch f.Kind {
	case KindRedirect:
		target, err := expand(f.Target, os.Getenv)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return dialUnix(ctx, target)
	case KindCygwin:
		conn, err := cygwin.File{Port: f.Port, Secret: f.Nonce}.DialGnuPG(ctx, path)
		if err != nil {
			return nil, err
		}
		return conn, nil
	}
	conn, err := portfile.Connect(ctx, f.Port, func(c net.Conn) error {
		_, err := c.Write(f.Nonce[:])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return conn, nil
}

// isSocket reports whether path is a Unix socket.
func isSocket(path string) bool {
	st, err := os.Lstat(path)
	if err == nil && st.Mode()&fs.ModeSymlink != 0 {
		st, err = os.Stat(path)
	}
	if err != nil {
		return isReparse(err)
	}
	return st.Mode()&fs.ModeSocket != 0
}

// dialUnix connects to a Unix socket. It waits for room in the listener's backlog
// as a blocking connect(2) does, which package net doesn't.
func dialUnix(ctx context.Context, path string) (Conn, error) {
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			return conn.(*net.UnixConn), nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Listen makes a stand-in at path and listens on it. A stale one is replaced; a
// live one, and any other file, is EADDRINUSE.
func Listen(path string, o Options) (*Listener, error) {
	return portfile.Listen(portfile.Config{
		Options: o,
		Path:    path,
		Format: func(port uint16, s portfile.Secret) []byte {
			return File{Kind: KindNonce, Port: port, Nonce: s}.Bytes()
		},
		Parse: func(b []byte) (uint16, portfile.Secret, error) {
			f, err := Parse(b)
			if err == nil && f.Kind == KindRedirect {
				err = errors.New("a redirection")
			}
			return f.Port, f.Nonce, err
		},
		Greet: func(conn net.Conn, s portfile.Secret, _ time.Time) (wire.Caller, error) {
			return wire.Caller{}, portfile.CheckSecret(conn, s)
		},
	})
}
