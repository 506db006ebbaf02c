package socket

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"drvsock/internal/cygwin/portfile"
	"drvsock/internal/errno"
)

// tcpConn is a connection whose end can be a reset.
type tcpConn struct{ *net.TCPConn }

// Abort makes Close a reset.
func (c tcpConn) Abort() { _ = c.SetLinger(0) }

// loopback reads an address and refuses what other machines could reach: TCP
// has no permissions, so what stands in for a socket must not leave the machine.
func loopback(address string) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return a, refuse(errno.EINVAL, "%q is no address of the form IP:PORT", address)
	}
	if !a.Addr().IsLoopback() || a.Addr().Zone() != "" {
		return a, refuse(errno.EACCES, "%s is not on loopback", address)
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), nil
}

func dialTCP(ctx context.Context, address string) (Conn, error) {
	a, err := loopback(address)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{KeepAlive: -1}
	c, err := d.DialContext(ctx, "tcp", a.String())
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("connect %s: %w", a, err)
	}
	return tcpConn{c.(*net.TCPConn)}, nil
}

type tcpListener struct{ l *net.TCPListener }

func listenTCP(address string) (Listener, error) {
	a, err := loopback(address)
	if err != nil {
		return nil, err
	}
	c := net.ListenConfig{KeepAlive: -1, Control: portfile.Exclusive}
	l, err := c.Listen(context.Background(), "tcp", a.String())
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", a, err)
	}
	return &tcpListener{l.(*net.TCPListener)}, nil
}

func (l *tcpListener) Accept() (Conn, Peer, error) {
	c, err := l.l.AcceptTCP()
	if err != nil {
		return nil, Peer{}, err
	}
	return tcpConn{c}, Peer{Caller: tcpCaller(c)}, nil
}

func (l *tcpListener) Addr() string { return l.l.Addr().String() }

func (l *tcpListener) Close() error { return ignoreClosed(l.l.Close()) }
