//go:build !linux

package wait

// Spare does nothing here: only Linux has the waits.
func Spare() {}
