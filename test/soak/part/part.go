// Package part holds what the soak's test and its programs share.
package part

import "time"

// CallBound is what no call of a program may take. A new link's hello may take
// 15 s, and a dead peer is noticed as late.
const CallBound = 25 * time.Second

// The ways to use a connection. The client begins and says which.
const (
	Talk   = iota + 1 // a request, then an answer, then the end
	Stream            // both ways at once, then the end of each
	Idle              // a byte and its answer now and then
)

// A Report is what a program says of one connection, as a line on its stdout.
type Report struct {
	Route string    // which way it went
	Kind  byte      // of its plan
	Start time.Time // of its connect
	End   time.Time
	What  string // "ok", "short", an errno, "wrong" or "stuck"
	Half  bool   `json:",omitempty"` // the program had ended its direction
	Text  string `json:",omitempty"`
	Conns int    `json:",omitempty"` // with ok: connections since the last report of this route
	Bytes int64  `json:",omitempty"` // with ok: bytes of theirs, both ways
}
