// Package shim is the short life of the command's process before it is the
// command: it installs the seccomp filter, hands the listener to the
// supervisor, waits for its word and executes the command in its own place.
//
// A filter can only be installed by the thread that it is for, so this can't
// be done from the supervisor; and a Go program has threads before main, so it
// can't be done between fork and exec either.
package shim

import "errors"

// Word is the argument that makes this program the shim.
const Word = "drvsock:shim"

// ErrNotRunnable is wrapped when the command itself can't be executed; the
// error then also wraps the system's.
var ErrNotRunnable = errors.New("not runnable")
