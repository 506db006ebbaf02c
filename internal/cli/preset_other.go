//go:build !linux

package cli

import (
	"errors"

	"drvsock/internal/preset"
)

func presetPlace() (preset.Place, error) {
	return preset.Place{}, errors.New("forwards are kept up on the Linux side")
}
