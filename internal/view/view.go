// Package view is the process that serves one view of package mount for the
// daemon, and what it shares with a mount in the foreground: how the link is kept
// and where on the host a folder lies.
//
// The daemon does not serve views itself. It starts agents from folders on drives,
// and a process that starts a program waits for the program's file while no other
// of its threads can start one: if the file were in a view of its own, for ever.
// A folder beneath that hangs, as a network's may, would take the links and
// forwards of everybody with it. And a view has a descriptor for each file that
// the kernel has in its caches. So each view is a process of its own, which the
// daemon can end without asking it.
//
// It gets its link from the daemon as a `drvsock run` does, by a session, and ends
// with the daemon: when that is gone, however it went, the folder beneath is
// there again.
package view

import "drvsock/internal/config"

// Word is the argument that makes this program the process of a view; the number
// of its control socket follows. It is no command for people.
const Word = "drvsock:view"

// An Order is what the process is told, as one JSON value.
type Order struct {
	Mount   config.Mount // Dir absolute
	Agent   config.Agent // by which the view goes, folders absolute
	Verbose bool
}

// A Report is what the process tells, as a JSON value each.
type Report struct {
	// Mounted says that the view is there, at Dir with all links followed. HostPath
	// is what the host calls that.
	Mounted       bool `json:",omitempty"`
	Dir, HostPath string
	Error, Hint   string // it isn't, and the process ends
	// Gone says that somebody unmounted it. The process ends when nobody uses the
	// view any more.
	Gone bool `json:",omitempty"`
}
