//go:build !linux

package demo

import (
	"context"
	"errors"
	"fmt"
)

func run(context.Context, Options) (*Report, error) {
	return nil, fmt.Errorf("demo: %w on this system: it plays the Linux side too", errors.ErrUnsupported)
}

func playMoved([]string) error { return errors.ErrUnsupported }
