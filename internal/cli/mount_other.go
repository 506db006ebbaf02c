//go:build !linux

package cli

import (
	"errors"
	"fmt"
)

func serveMount(Streams, mountFlags, string) error {
	return fmt.Errorf("mount: %w on this system: it is for the Linux side", errors.ErrUnsupported)
}
