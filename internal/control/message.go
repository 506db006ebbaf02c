package control

import (
	"time"

	"drvsock/internal/config"
	"drvsock/internal/forward"
)

// An Op is what a request asks for.
type Op string

// The operations.
const (
	OpStatus        Op = "status"
	OpUp            Op = "up"          // Agent, Wait, Exe; the daemon stays until down
	OpDown          Op = "down"        // answered when links and listeners are gone
	OpReload        Op = "reload"      // reads the configuration anew
	OpViews         Op = "views"       // Name, Exe: where drives are seen, and the link's identity
	OpSession       Op = "session"     // Name, Identity: Response comes with two ends of pipes
	OpForwardAdd    Op = "forward-add" // Forward, Saved, Exe; once more is no error
	OpForwardRemove Op = "forward-rm"
	OpForwardList   Op = "forward-list"
	OpMountAdd      Op = "mount-add"  // Mount, Saved, Exe
	OpMountRemove   Op = "mount-rm"   // Name: the folder
	OpMountList     Op = "mount-list" // Response.Mounts
)

// A Request is what a client sends.
type Request struct {
	Op   Op     `json:"op"`
	Name string `json:"name,omitempty"` // of an agent or a forward, or a folder
	// Agent says how the default agent is reached, with absolute folders; nil if
	// it was not said.
	Agent *config.Agent `json:"agent,omitempty"`
	// Exe is the drvsock.exe that the client found, for a daemon that has Windows'
	// folders not on its PATH.
	Exe string `json:"exe,omitempty"`
	// Wait bounds the wait for the link in milliseconds; 0 doesn't wait.
	Wait     int             `json:"wait_ms,omitempty"`
	Identity string          `json:"identity,omitempty"` // of Response; "" takes any
	Program  string          `json:"program,omitempty"`  // that a session is for
	Forward  *config.Forward `json:"forward,omitempty"`
	Saved    bool            `json:"saved,omitempty"` // it is in the configuration, and goes when it isn't any more
	Mount    *config.Mount   `json:"mount,omitempty"`
}

// A Response is what the daemon answers.
type Response struct {
	Error string `json:"error,omitempty"` // it was not done
	Hint  string `json:"hint,omitempty"`  // of Error
	// Ending says that it was not done because the daemon ends: another one may.
	Ending bool `json:"ending,omitempty"`

	Status   *Status          `json:"status,omitempty"`
	Forwards []forward.Status `json:"forwards,omitempty"`
	Mounts   []MountStatus    `json:"mounts,omitempty"`
	Notes    []string         `json:"notes,omitempty"` // what else is worth saying, a line each

	Views    []View `json:"views,omitempty"`
	Only     bool   `json:"only,omitempty"`     // no other drives than Views
	Identity string `json:"identity,omitempty"` // of the agent and its drives
}

// A View says that the drive Letter is seen at the folder View.
type View struct {
	Letter string `json:"letter"`
	View   string `json:"view"`
}

// Status is how the daemon is.
type Status struct {
	Daemon   DaemonStatus     `json:"daemon"`
	Links    []LinkStatus     `json:"links"`
	Forwards []forward.Status `json:"forwards"`
	Mounts   []MountStatus    `json:"mounts"`
	Sessions []SessionStatus  `json:"sessions"`
}

// DaemonStatus is the process.
type DaemonStatus struct {
	PID     int       `json:"pid"`
	Build   string    `json:"build"`
	Started time.Time `json:"started"`
	Socket  string    `json:"socket"`
	Config  string    `json:"config"`        // path of the file, which need not exist
	Log     string    `json:"log,omitempty"` // path, "" if the log is stderr's
	Stays   bool      `json:"stays"`         // it doesn't end when nobody needs it
	// ConfigError is why the file was not taken when it was last read.
	ConfigError string `json:"config_error,omitempty"`
}

// The states of a link.
const (
	LinkDown     = "down"     // not needed yet, or lost; a call starts it
	LinkStarting = "starting" // being made
	LinkUp       = "up"
	LinkWaiting  = "waiting" // for the next try
)

// LinkStatus is the link to one agent.
type LinkStatus struct {
	Agent     string     `json:"agent"` // "" is the default one
	Command   string     `json:"command"`
	Transport string     `json:"transport"`                  // of the link that is up, or of the next one
	Reason    string     `json:"transport_reason,omitempty"` // what there is to say of it, such as why it is no other one
	State     string     `json:"state"`
	Since     time.Time  `json:"since"`
	Build     string     `json:"build,omitempty"` // of the agent
	OS        string     `json:"os,omitempty"`
	PID       int        `json:"pid,omitempty"`
	Attempts  int        `json:"attempts"` // that failed since the last link that held
	NextTry   *time.Time `json:"next_try,omitempty"`
	LastError *Problem   `json:"last_error,omitempty"`
	Streams   int        `json:"streams"`
	// What the connections of this link have carried, from the host and to it.
	In  uint64 `json:"bytes_in"`
	Out uint64 `json:"bytes_out"`
}

// A Problem is an error that happened.
type Problem struct {
	Layer string    `json:"layer"`
	Text  string    `json:"text"`
	Hint  string    `json:"hint,omitempty"`
	When  time.Time `json:"when"`
}

// SessionStatus is one `drvsock run` that uses the daemon's link.
type SessionStatus struct {
	PID       int       `json:"pid"`
	Program   string    `json:"program"`
	Agent     string    `json:"agent"`
	Since     time.Time `json:"since"`
	Streams   int       `json:"streams"`   // connections
	Listeners int       `json:"listeners"` // sockets bound on the host
	In        uint64    `json:"bytes_in"`  // from the host
	Out       uint64    `json:"bytes_out"` // to the host
	Refused   uint64    `json:"refused"`   // requests that the agent or the link refused
	LastError *Problem  `json:"last_error,omitempty"`
}

// The states of a mount.
const (
	MountStarting = "starting"
	MountServed   = "served"
	MountFailed   = "failed" // the reason is LastError; it is tried again
)

// MountStatus is one folder with a view.
type MountStatus struct {
	Dir       string    `json:"dir"`
	HostPath  string    `json:"host_path,omitempty"`
	Agent     string    `json:"agent,omitempty"`
	State     string    `json:"state"`
	Since     time.Time `json:"since"`         // of State
	PID       int       `json:"pid,omitempty"` // of the process that serves it
	Streams   int       `json:"streams"`       // connections with host programs
	Listeners int       `json:"listeners"`     // sockets bound on the host
	LastError *Problem  `json:"last_error,omitempty"`
}
