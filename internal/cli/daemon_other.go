//go:build !linux

package cli

import (
	"errors"
	"fmt"
)

func runDaemon(Streams, daemonFlags) error {
	return fmt.Errorf("the daemon: %w on this system: it is for the Linux side", errors.ErrUnsupported)
}
