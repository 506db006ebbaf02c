//go:build !linux

package names

// Command is the first argument with which a Keeper starts this program anew.
const Command = "__names"

// Main is for Linux.
func Main() int { return 125 }
