// Package afunix holds what AF_UNIX sockets need beyond package net: names as
// the system's own bytes and of any length, a connect that waits for room, and
// what tells a socket's file from a later one of the same name.
package afunix

import "time"

// A Wait says how long a connect may wait for room in the listener's backlog.
// Only Linux waits: elsewhere a full backlog refuses.
type Wait struct {
	Never bool          // not at all
	Limit time.Duration // this long, 0 for as long as its context
}
