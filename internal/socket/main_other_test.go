//go:build !linux && !windows

package socket

func play([]string) bool { return false }
