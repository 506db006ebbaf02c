//go:build !linux

package drive

import (
	"errors"
	"fmt"
)

var errOther = fmt.Errorf("mounts of this system: %w", errors.ErrUnsupported)

func locate(int, func(uint64) (Mount, bool)) (Location, error) { return Location{}, errOther }

func locateFolder(string) (Location, error) { return Location{}, errOther }

func mountOf(int) (uint64, error) { return 0, errOther }

func mountsOf(int) ([]Mount, error) { return nil, errOther }

type watched struct{}

func openWatched() (watched, error) { return watched{}, errOther }

func (watched) changed() bool { return false }

func (watched) read() ([]byte, error) { return nil, errOther }

func (watched) close() error { return nil }
