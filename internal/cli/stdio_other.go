//go:build !linux

package cli

import "os"

// stdio takes stdin and stdout for a link.
func stdio() (in, out *os.File, err error) { return os.Stdin, os.Stdout, nil }
