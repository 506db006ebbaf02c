//go:build !windows

package socket

import (
	"context"

	"drvsock/internal/errno"
)

func noPipes(path string) error {
	return refuse(errno.EAFNOSUPPORT, "%s: only Windows has named pipes", path)
}

func dialPipe(_ context.Context, path string) (Conn, error) { return nil, noPipes(path) }

func listenPipe(path string, _ Options) (Listener, error) { return nil, noPipes(path) }

// fileACL is nothing here: files have modes.
func fileACL([]string, string) (string, error) { return "", nil }
