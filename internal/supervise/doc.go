// Package supervise is the supervisor of `drvsock run`: the process that starts
// the command, receives the socket calls of its whole tree from the kernel and
// carries out those that concern a drive.
//
// Follow one call through it: calls.go takes it from the kernel, connect.go and
// bind.go, which also has listen, decide and act, meeting.go and sockets.go hold what
// outlives the call. main.go starts and ends everything.
//
// Where no filter can be, mounted.go has the command live among views of package
// mount instead, in a mount namespace of its own.
package supervise

// Word is the argument that makes this program the supervisor; a control socket
// follows it. It is no command for people.
const Word = "drvsock:supervise"

// A DriveView says that the drive Letter is seen at the folder View, whatever
// the mount table says.
type DriveView struct {
	Letter byte
	View   string
}

// Config is what the front tells the supervisor, as one JSON value.
type Config struct {
	Link []string // argv of the command whose stdin and stdout are the link, if not Session
	// Session, if not nil, has the daemon lend its link.
	Session *Session
	Drives  []DriveView
	// DrivesOnly leaves out what the mount table says: the agent plays a host of
	// its own and doesn't know the real one's drives.
	DrivesOnly bool
	// By is what brings the programs' calls here: ByFilter, ByMount, or "" for the
	// first of them that can be.
	By      string
	Verbose bool
	Path    string   // file to execute
	Argv    []string // its arguments, the first one its name
}

// The values of Config.By.
const (
	ByFilter = "filter" // a seccomp filter
	ByMount  = "mount"  // views over the drives, in a mount namespace
)

// A Session is a link of the daemon's.
type Session struct {
	Agent    string // name, "" for the default one
	Identity string // as the daemon told it with the drives
}

// An Event is what the supervisor tells the front, as a JSON value each. Only
// one of PID, Error, Stopped and Ended is set.
type Event struct {
	Ready   bool   `json:",omitempty"` // the command can run, once the front has written a line
	PID     int    `json:",omitempty"` // the command runs
	Error   string `json:",omitempty"` // nothing runs; Code is the exit code to end with
	Hint    string `json:",omitempty"` // of Error
	Stopped bool   `json:",omitempty"` // the command was stopped by a signal
	Ended   bool   `json:",omitempty"` // the command ended, with Code or by Signal
	Code    int    `json:",omitempty"`
	Signal  int    `json:",omitempty"`
}
