//go:build !windows

package assuan

// isReparse reports that there are no reparse points.
func isReparse(error) bool { return false }
