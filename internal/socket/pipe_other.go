//go:build !windows

package socket

import (
	"context"
	"syscall"

	"drvsock/internal/errno"
)

func noPipes(path string) error {
	return refuse(errno.EAFNOSUPPORT, "%s: only Windows has named pipes", path)
}

func dialPipe(_ context.Context, path string) (Conn, error) { return nil, noPipes(path) }

func listenPipe(path string, _ Options) (Listener, error) { return nil, noPipes(path) }

// alone has nothing to do: only Windows lets another process take part of a
// port over.
func alone(_, _ string, _ syscall.RawConn) error { return nil }

// fileACL is nothing here: files have modes.
func fileACL([]string, string) (string, error) { return "", nil }
