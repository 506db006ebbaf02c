//go:build !windows

package main

import (
	"errors"
	"net"
)

func dialPipe(string) (conn, error) { return nil, errors.ErrUnsupported }

func listenPipe(string) (net.Listener, error) { return nil, errors.ErrUnsupported }
