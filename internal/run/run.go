// Package run is the front of `drvsock run`: the process that the user's shell
// started. It stays in the job's process group beside the command, starts the
// supervisor and passes on what becomes of the command: stops, exit code, death.
//
// It is not the supervisor itself. When the user stops the job, everything in
// its process group stops, and a stopped supervisor would leave background
// programs of the same tree stuck in their calls.
package run

import "drvsock/internal/transport"

// The exit codes that are not the command's own, as env(1), chroot(1) and
// timeout(1) have them.
const (
	ExitFailure     = 125 // drvsock itself failed
	ExitNotRunnable = 126 // the command was found but can't be run
	ExitNotFound    = 127 // the command was not found
	ExitSignal      = 128 // plus the number of the signal that ended the command
)

// Options are what `drvsock run` was asked for.
type Options struct {
	// Plan is how the agent is reached. With no command in it, that is the
	// daemon's matter, or with NoDaemon this run has the default agent of its own.
	// Its views go before the daemon's.
	Plan     transport.Plan
	NoDaemon bool
	Agent    string // of the daemon's agents, "" for the default one
	By       string // of supervise.Config
	Verbose  bool
	Argv     []string // the command and its arguments, at least one
}

// Command runs a command under supervision and returns the exit code that this
// process should end with. The error is for a person and goes with
// ExitFailure, ExitNotRunnable or ExitNotFound.
func Command(o Options) (code int, err error) { return command(o) }
