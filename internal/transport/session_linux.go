package transport

import (
	"context"
	"fmt"

	"drvsock/internal/control"
	"drvsock/internal/link"
)

// A Session is a link of the daemon's, which passes each stream on to its own
// link to an agent. Each Dial asks for a new one, of a daemon that is started if
// there is none.
type Session struct {
	Agent    string // name of the agent, "" for the default one
	Identity string // what the daemon said of it before; "" takes any
	Program  string // whom it is for, for the daemon's status
	Running  bool   // of a daemon that runs already; none is started
}

// Kind is "session".
func (s *Session) Kind() string { return "session" }

// String says with whom.
func (s *Session) String() string {
	if s.Agent == "" {
		return "the daemon"
	}
	return "the daemon, agent " + s.Agent
}

// Dial asks the daemon. The link's PID is the daemon's.
func (s *Session) Dial(ctx context.Context, cfg link.Config) (*Link, error) {
	c, err := control.Dial(ctx, control.Options{Start: !s.Running, Args: []string{"--" + control.FlagOnDemand}})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	a, err := c.Session(ctx, control.Request{Name: s.Agent, Identity: s.Identity, Program: s.Program})
	if err != nil {
		return nil, err
	}
	l, err := over(ctx, a.R, a.W, cfg)
	if err != nil {
		a.End(0)
		return nil, fmt.Errorf("link to %s: %w", s, err)
	}
	// The daemon has let go of everything when it closes the other end, as an
	// agent has when its process ends.
	return NewLink(l, a.PID, func() { a.End(endWait) }), nil
}
