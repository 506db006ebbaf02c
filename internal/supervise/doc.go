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

import "encoding/json"

// Word is the argument that makes this program the supervisor; a control socket
// follows it. It is no command for people.
const Word = "drvsock:supervise"

// A DriveView says that the drive Letter is seen at the folder View, whatever
// the mount table says.
type DriveView struct {
	Letter byte
	View   Text
}

// Text is an argument or the name of a file. On Linux these are any bytes, and
// JSON would replace those that aren't UTF-8.
type Text string

// MarshalJSON writes the bytes in base64.
func (t Text) MarshalJSON() ([]byte, error) { return json.Marshal([]byte(t)) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (t *Text) UnmarshalJSON(b []byte) error {
	var text []byte
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	*t = Text(text)
	return nil
}

// Texts are the arguments of a command.
type Texts []string

// MarshalJSON writes them as Texts.
func (t Texts) MarshalJSON() ([]byte, error) {
	texts := make([]Text, len(t))
	for i, s := range t {
		texts[i] = Text(s)
	}
	return json.Marshal(texts)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (t *Texts) UnmarshalJSON(b []byte) error {
	var texts []Text
	if err := json.Unmarshal(b, &texts); err != nil {
		return err
	}
	*t = nil
	for _, s := range texts {
		*t = append(*t, string(s))
	}
	return nil
}

// Config is what the front tells the supervisor, as one JSON value.
type Config struct {
	Link Texts // argv of the command whose stdin and stdout are the link, if not Session
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
	Path    Text  // file to execute
	Argv    Texts // its arguments, the first one its name
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
