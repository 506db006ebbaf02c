//go:build !linux

package hyperv

import (
	"context"
	"os"
	"time"

	"drvsock/internal/errno"
)

func dial(context.Context, uint32, uint32, time.Duration) (*os.File, error) {
	return nil, errno.Errorf(errno.EAFNOSUPPORT, errno.LayerGuest, "this system is no guest")
}
