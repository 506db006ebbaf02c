//go:build !linux

package mount

import (
	"errors"
	"fmt"
	"log/slog"
)

var errSystem = fmt.Errorf("mount: %w on this system: it is for the Linux side", errors.ErrUnsupported)

type served struct{ done, unmounted chan struct{} }

func serve(string, Options) (*served, error) { return nil, errSystem }
func (s *served) close() error               { return errSystem }
func (s *served) linkUp()                    {}
func list() ([]Entry, error)                 { return nil, errSystem }
func repair(string, *slog.Logger) error      { return nil }
func unmount(string) error                   { return errSystem }
