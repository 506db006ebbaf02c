package socket

import (
	"errors"
	"fmt"
	"net"

	"drvsock/internal/errno"
)

// A refusal is an error with a number and a sentence. It has no layer: whether
// this is the guest or the host, the caller knows.
type refusal struct {
	number errno.Errno
	text   string
}

func refuse(n errno.Errno, format string, args ...any) error {
	return &refusal{n, fmt.Sprintf(format, args...)}
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.number }

// lost is what a listener says whose file isn't there any more.
func lost(path string) error { return refuse(errno.ENOENT, "somebody has removed %s", path) }

// ignoreClosed makes a second Close none.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
