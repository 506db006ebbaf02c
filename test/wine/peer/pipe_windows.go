package main

import (
	"net"
	"time"

	"github.com/Microsoft/go-winio"
)

func dialPipe(path string) (conn, error) {
	limit := within
	c, err := winio.DialPipe(path, &limit)
	if err != nil {
		return nil, err
	}
	return c.(conn), nil
}

func listenPipe(path string) (net.Listener, error) {
	l, err := winio.ListenPipe(path, &winio.PipeConfig{MessageMode: true, InputBufferSize: 64 << 10, OutputBufferSize: 64 << 10})
	if err != nil {
		return nil, err
	}
	// Wine's pipes of a name are right after a first connection only.
	limit := time.Second
	if c, err := winio.DialPipe(path, &limit); err == nil {
		_ = c.Close()
	}
	return l, nil
}
