package demo

import (
	"context"
	"io"
)

// Options say what to play.
type Options struct {
	// Program is the drvsock to play with; "" stands for the running one.
	Program string
	// Wine is a folder that wine/setup made; the host is then Wine's drive C and
	// its programs are Windows programs. "" plays the host with a folder.
	Wine string
	// Agent is the drvsock.exe to use with Wine.
	Agent string
	// Server, with Wine, is a Windows program to use in place of our own server:
	// one that listens on server.sock in its folder, says so in a line, and sends
	// something to the first who connects.
	Server string
	// Out gets the transcript as it happens.
	Out io.Writer `json:"-"`
}

// A Report is what was played and what came of it.
type Report struct {
	OK      bool     `json:"ok"`
	Steps   []Step   `json:"steps"`
	LeftOut []string `json:"left_out"` // what this machine or user doesn't let us play, and why
	Notes   []string `json:"notes"`    // what to keep in mind
}

// A Step is a part of the story with a claim that it checks.
type Step struct {
	Name     string    `json:"name"`
	Commands []Command `json:"commands"`
	OK       bool      `json:"ok"`
}

// A Command was run by a shell as it stands, with HOST and VIEW set.
type Command struct {
	Side    string `json:"side"` // "host" or "guest"
	Dir     string `json:"dir"`  // the working folder, from the top of the drive
	Command string `json:"command"`
	Output  string `json:"output"` // stdout and stderr as they came
	Exit    int    `json:"exit"`   // -1 if a signal ended it
	OK      bool   `json:"ok"`
	Differs string `json:"differs,omitempty"` // what was expected, unless OK
}

// Expected counts the steps that came out as they should.
func (r *Report) Expected() int {
	n := 0
	for _, s := range r.Steps {
		if s.OK {
			n++
		}
	}
	return n
}

// Run plays the demo, a few seconds long. Everything that it waits for has a
// bound, and it takes down all that it set up when it returns, also after ctx has
// ended. An error means that it could not be played to its end; what differed
// from the expected is in the report.
func Run(ctx context.Context, o Options) (*Report, error) { return run(ctx, o) }

// Word is the argument that makes this program one of the demo's; the name of
// that follows.
const Word = "drvsock:demo"

// The names of the programs' sockets, in the folder that they are started in.
const (
	serverSocket = "server.sock"
	bindSocket   = "bind.sock"
)

// greeting is what the server sends.
const greeting = "hello from the other side"
