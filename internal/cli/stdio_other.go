//go:build !linux

package cli

import "os"

// terminal tells whether a person may sit at f, which is a console then.
func terminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

// stdio takes stdin and stdout for a link.
func stdio() (in, out *os.File, err error) { return os.Stdin, os.Stdout, nil }
