package forward

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"drvsock/internal/errno"
)

// A State says what a forward's listener does.
type State string

// The states.
const (
	Listening State = "listening"
	Waiting   State = "waiting" // for a link to the host
	Failed    State = "failed"  // the reason is LastError; it is tried again
)

// MaxCallers is how many of a forward's open connections Status lists.
const MaxCallers = 64

// A Status tells what a forward does.
type Status struct {
	Name    string    `json:"name"`
	Listen  string    `json:"listen"`
	Connect string    `json:"connect"`
	Agent   string    `json:"agent,omitempty"`
	Address string    `json:"address,omitempty"` // what it listens on where Listen left that open, such as port 0
	State   State     `json:"state"`
	Since   time.Time `json:"since"` // of State

	Active  int    `json:"active"`  // connections that are open
	Total   uint64 `json:"total"`   // connections that were opened
	Refused uint64 `json:"refused"` // by the allow rule, or by the mode of an abstract name
	Failed  uint64 `json:"failed"`  // connections that were not opened for another reason
	In      uint64 `json:"bytes_in"`
	Out     uint64 `json:"bytes_out"` // to the clients; In is from them

	LastError *Error `json:"last_error,omitempty"`
	// Callers are the clients of open connections, the newest first, at most
	// MaxCallers.
	Callers []Caller          `json:"callers,omitempty"`
	Env     map[string]string `json:"env,omitempty"` // as configured
}

// An Error is the last thing that went wrong.
type Error struct {
	Layer string    `json:"layer"` // guest, link, agent or host
	Errno string    `json:"errno,omitempty"`
	Text  string    `json:"text"`
	When  time.Time `json:"when"`
}

func newError(err error) *Error {
	e := &Error{Layer: errno.LayerUnknown.String(), Text: err.Error(), When: time.Now()}
	var x *errno.Error
	if errors.As(err, &x) {
		e.Layer, e.Errno = x.Layer.String(), x.Errno.String()
	}
	return e
}

// A Caller is the program at the client's end of a connection.
type Caller struct {
	Side    string    `json:"side"` // guest or host
	UID     *uint32   `json:"uid,omitempty"`
	GID     *uint32   `json:"gid,omitempty"`
	PID     uint32    `json:"pid,omitempty"`
	Program string    `json:"program,omitempty"`
	User    string    `json:"user,omitempty"` // account of a host's caller, user name of a guest's
	Since   time.Time `json:"since"`
}

// Status tells of all forwards, by name.
func (s *Set) Status() []Status {
	s.mu.Lock()
	list := make([]*forward, 0, len(s.forwards))
	for _, f := range s.forwards {
		list = append(list, f)
	}
	s.mu.Unlock()
	out := make([]Status, 0, len(list))
	for _, f := range list {
		out = append(out, f.status())
	}
	slices.SortFunc(out, func(a, b Status) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func (f *forward) status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := Status{
		Name: f.cfg.Name, Listen: f.cfg.Listen, Connect: f.cfg.Connect, Agent: f.cfg.Agent,
		Address: f.address, State: f.state, Since: f.since,
		Active: len(f.conns), Total: f.total, Refused: f.refused, Failed: f.failed, In: f.in, Out: f.out,
		LastError: f.lastError, Env: f.env,
	}
	for c := range f.conns {
		in, out := c.bytes()
		s.In += in
		s.Out += out
		s.Callers = append(s.Callers, c.caller)
	}
	slices.SortFunc(s.Callers, func(a, b Caller) int { return b.Since.Compare(a.Since) })
	s.Callers = slices.Clip(s.Callers[:min(len(s.Callers), MaxCallers)])
	return s
}
