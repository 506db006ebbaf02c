package assuan

import (
	"errors"

	"golang.org/x/sys/windows"
)

// isReparse reports whether err is that of a reparse point which can't be opened
// as a file. A Unix socket is one (golang/go 33357).
func isReparse(err error) bool { return errors.Is(err, windows.ERROR_CANT_ACCESS_FILE) }
