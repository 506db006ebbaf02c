// Package cygwin speaks with programs of Cygwin and MSYS2 (Git for Windows) by
// their Unix sockets, which are files with a TCP port and a secret. It is the
// same on every system, so that it can be tried without Windows.
//
// Not covered are datagram sockets, and sockets on which a program has switched
// the greeting off (setsockopt SO_PEERCRED, which X servers do): those have no
// protection that could be kept up.
package cygwin

import (
	"context"
	"fmt"
	"net"

	"drvsock/internal/cygwin/portfile"
)

// Options are about the file that Listen makes.
type Options = portfile.Options

// A Listener listens by a socket file of Cygwin's form. Accept returns a
// connection that has been greeted, and its caller as by Welcome.
type Listener = portfile.Listener

// Dial connects to the Cygwin socket whose file is path, which is read anew each
// time. ctx bounds it, and five seconds the greeting.
//
// On Windows a file without the SYSTEM attribute is not Cygwin's own, which
// takes no such file for a socket; it is dialled as by DialGnuPG.
func Dial(ctx context.Context, path string) (*net.TCPConn, error) {
	b, err := portfile.Read(ctx, path)
	if err != nil {
		return nil, err
	}
	f, err := Parse(b)
	if err != nil {
		return nil, portfile.NoStandIn(path, err.Error())
	}
	greet := f.greet
	if !system(path) {
		greet = f.greetAny
	}
	return f.dial(ctx, path, greet)
}

// DialGnuPG connects to the server of a Cygwin file that was found where GnuPG
// has its sockets, and may be either's. With gpg-agent it takes 0.3 seconds,
// because it doesn't answer.
func (f File) DialGnuPG(ctx context.Context, path string) (*net.TCPConn, error) {
	return f.dial(ctx, path, f.greetAny)
}

func (f File) dial(ctx context.Context, path string, greet func(net.Conn) error) (*net.TCPConn, error) {
	conn, err := portfile.Connect(ctx, f.Port, greet)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return conn, nil
}

// Listen makes a Cygwin socket at path and listens. A stale one is replaced; a
// live one, and any other file, is EADDRINUSE.
func Listen(path string, o Options) (*Listener, error) {
	return portfile.Listen(portfile.Config{
		Options: o,
		Path:    path,
		System:  true,
		Format:  func(port uint16, s portfile.Secret) []byte { return File{port, s}.Bytes() },
		Parse: func(b []byte) (uint16, portfile.Secret, error) {
			f, err := Parse(b)
			return f.Port, f.Secret, err
		},
		Greet: Welcome,
	})
}
