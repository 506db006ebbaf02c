package control

import "errors"

// Options say how to reach the daemon.
type Options struct {
	// Start starts one if there is none.
	Start bool
	// Args are more arguments of a daemon that is started.
	Args []string
}

var (
	// ErrNone says that no daemon runs.
	ErrNone = errors.New("no daemon runs")
	// ErrEnding says that the daemon ends and does nothing more.
	ErrEnding = errors.New("the daemon is ending")
)

// The hidden flags of `drvsock daemon` with which it is started from here.
const (
	FlagDetach   = "detach"    // start another one with the rest of the arguments, and end
	FlagReady    = "ready"     // number of the descriptor for the Readiness
	FlagOnDemand = "on-demand" // nobody asked for it to stay
)
