//go:build !linux

package supervise

// Main is for Linux.
func Main([]string) int { return 125 }
