//go:build !linux

package view

// Main is for Linux.
func Main([]string) int { return 1 }
