//go:build !linux

package drive

import (
	"os"
	"path/filepath"
)

func realpath(path string) (string, error) { return filepath.EvalSymlinks(path) }

func workdir() (string, error) { return os.Getwd() }
