//go:build !linux && !windows

package socket

import (
	"context"
	"net"

	"drvsock/internal/wire"
)

func dialUnix(context.Context, string) (Conn, error) { return nil, lacks(wire.NetUnix) }

func listenUnix(string, Options) (Listener, error) { return nil, lacks(wire.NetUnix) }

func tcpCaller(*net.TCPConn) wire.Caller { return unknown() }
