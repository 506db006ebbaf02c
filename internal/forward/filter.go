package forward

import (
	"context"
	"sync/atomic"
	"time"

	"drvsock/internal/config"
	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/relay"
	"drvsock/internal/sshagent"
)

// How long is believed what was found out about an agent, which may be replaced
// by another at any time, and how long it has to answer.
const (
	agentBelieved = 10 * time.Minute
	agentAnswers  = 2 * time.Second
)

// agents remembers what the target does with extensions.
type agents struct {
	turn chan struct{} // one asks at a time, holding this

	// Guarded by turn.
	closes bool
	asked  time.Time  // zero: never
	link   *link.Link // over which; nil for a target on the guest
}

func (a *agents) init() { a.turn = make(chan struct{}, 1) }

// mustFilter tells whether the target closes at extensions. The first
// connection on each link finds out, by a connection of its own.
func (f *forward) mustFilter(ctx context.Context) (bool, error) {
	if f.cfg.Filter != config.FilterSSHAgent {
		return false, nil
	}
	a := &f.agents
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		return false, errno.Errorf(errno.ETIMEDOUT, errno.LayerLink, "the agent's probe: %v", context.Cause(ctx))
	}
	if a.valid() {
		return a.closes, nil
	}
	c, err := f.connect(ctx, self())
	if err != nil {
		return false, err
	}
	a.link = nil
	if s, ok := c.(*link.Stream); ok {
		a.link = s.Link()
	}
	verdict := sshagent.Probe(c, agentAnswers)
	a.closes = verdict == sshagent.Closes
	a.asked = time.Time{}
	if verdict != sshagent.Unknown {
		a.asked = time.Now()
	}
	f.log.Info("asked the agent", "extensions", !a.closes, "answered", verdict != sshagent.Unknown)
	return a.closes, nil
}

func (a *agents) valid() bool {
	if a.asked.IsZero() || time.Since(a.asked) > agentBelieved {
		return false
	}
	if a.link == nil {
		return true
	}
	select {
	case <-a.link.Done():
		return false
	default:
		return true
	}
}

// filtered is a target that gets what the filter lets through.
type filtered struct{ relay.Conn }

// A counted is a connection whose bytes are counted.
type counted struct {
	relay.Conn
	read, written atomic.Uint64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(uint64(n))
	return n, err
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.written.Add(uint64(n))
	return n, err
}

func (c *counted) bytes() (in, out uint64) { return c.read.Load(), c.written.Load() }
