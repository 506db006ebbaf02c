//go:build !linux

package shim

// Main is for Linux.
func Main([]string) int { return 125 }
