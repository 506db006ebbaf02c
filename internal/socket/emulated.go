package socket

import (
	"context"
	"net"

	"drvsock/internal/assuan"
	"drvsock/internal/cygwin"
	"drvsock/internal/pageant"
	"drvsock/internal/wire"
)

func dialAssuan(ctx context.Context, path string) (Conn, error) {
	c, err := assuan.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	if t, ok := c.(*net.TCPConn); ok {
		return tcpConn{t}, nil
	}
	return c, nil
}

func dialCygwin(ctx context.Context, path string) (Conn, error) {
	c, err := cygwin.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	return tcpConn{c}, nil
}

func listenAssuan(path string, o Options) (Listener, error) {
	sddl, err := fileACL(o.Access, fileReaders)
	if err != nil {
		return nil, err
	}
	l, err := assuan.Listen(path, assuan.Options{Mode: o.Mode, UID: o.UID, GID: o.GID, SDDL: sddl, Log: o.Log})
	if err != nil {
		return nil, err
	}
	return portListener{l}, nil
}

func listenCygwin(path string, o Options) (Listener, error) {
	sddl, err := fileACL(o.Access, fileReaders)
	if err != nil {
		return nil, err
	}
	l, err := cygwin.Listen(path, cygwin.Options{Mode: o.Mode, UID: o.UID, GID: o.GID, SDDL: sddl, Log: o.Log})
	if err != nil {
		return nil, err
	}
	return portListener{l}, nil
}

// fileReaders is what other accounts may do with a stand-in: to connect takes no
// more than to read it.
const fileReaders = "FR"

// portListener is a TCP port whose clients prove that they can read a file.
type portListener struct {
	l interface {
		Accept() (*net.TCPConn, wire.Caller, error)
		Addr() string
		Lost() bool
		Close() error
	}
}

func (p portListener) Accept() (Conn, Peer, error) {
	c, said, err := p.l.Accept()
	if err != nil {
		return nil, Peer{}, err
	}
	// The user is the system's word, the process only the client's.
	caller := tcpCaller(c)
	if caller.PID == 0 && said.PID != 0 {
		caller.PID, caller.Program = said.PID, said.Program
	}
	return tcpConn{c}, Peer{Caller: caller}, nil
}

func (p portListener) Addr() string { return p.l.Addr() }

// Lost is for a Listener that has a file.
func (p portListener) Lost() error {
	if p.l.Lost() {
		return lost(p.l.Addr())
	}
	return nil
}

func (p portListener) Close() error { return p.l.Close() }

func dialPageant(ctx context.Context) (Conn, error) {
	c, err := pageant.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func listenPageant(o Options) (Listener, error) {
	l, err := pageant.Listen(o.Log)
	if err != nil {
		return nil, err
	}
	return pageantListener{l}, nil
}

type pageantListener struct{ l *pageant.Listener }

func (p pageantListener) Accept() (Conn, Peer, error) {
	c, caller, err := p.l.Accept()
	if err != nil {
		return nil, Peer{}, err
	}
	caller.UID, caller.GID = NoID, NoID
	return c, Peer{Caller: caller}, nil
}

func (p pageantListener) Addr() string { return p.l.Addr() }

func (p pageantListener) Close() error { return p.l.Close() }
