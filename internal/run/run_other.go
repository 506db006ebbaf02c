//go:build !linux

package run

import (
	"errors"
	"fmt"
)

func command(Options) (int, error) {
	return ExitFailure, fmt.Errorf("run: %w on this system: it is for the Linux side", errors.ErrUnsupported)
}
