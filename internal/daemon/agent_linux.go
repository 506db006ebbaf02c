package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"drvsock/internal/build"
	"drvsock/internal/config"
	"drvsock/internal/control"
	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/report"
	"drvsock/internal/transport"
	"drvsock/internal/wire"
)

// Pauses between two starts of an agent, and how long a link must hold to be no
// failed start, which lets the pauses grow. One that holds for as long as the
// pause has become makes those before it forgotten.
const (
	firstPause = 500 * time.Millisecond
	lastPause  = 30 * time.Second
	heldAfter  = time.Second
)

// agent is one agent and the link to it. It is the forward.Host of the forwards
// that go by this agent.
type agent struct {
	name      string // "" is the default one
	log       *slog.Logger
	drives    *drives
	installed *transport.Installed // the default way
	way       way
	needed    func() bool // a link is needed without anyone calling for it
	linked    func()      // a new link is there

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	work   sync.WaitGroup // tries, and ends of links

	mu       sync.Mutex
	cfg      config.Agent
	plan     transport.Plan
	cur      *uplink // the last one, live or not
	trying   *dialing
	since    time.Time // of the state that the status tells
	attempts int       // that failed since a link held
	next     time.Time // no try before
	last     error
	problem  *control.Problem
	timer    *time.Timer // for the next try, if the link is needed
	closed   bool
}

// A way makes of an agent's plan what dials it.
type way func(plan transport.Plan) transport.Dialer

// uplink is one link to an agent.
type uplink struct {
	*transport.Link
	plan     transport.Plan
	identity string
	command  string
	kind     string
	since    time.Time
	buried   bool // its loss was counted; guarded by the agent's mu

	mu     sync.Mutex
	routes map[uint32]func(*link.Incoming) // by the stream of the KindBind
}

// dialing is the making of a link, for which any number of callers may wait.
type dialing struct {
	done chan struct{}
	up   *uplink
	err  error
	// blind says that drvsock.exe became known after it began. Written with the
	// agent's mu, and not after done.
	blind bool
}

var errEnding = errno.Errorf(errno.ENETDOWN, errno.LayerLink, "the daemon is ending")

func newAgent(name string, cfg config.Agent, plan transport.Plan, d *drives, log *slog.Logger) *agent {
	a := &agent{
		name: name, cfg: cfg, plan: plan, drives: d, since: time.Now(),
		log: log.With("agent", display(name)), needed: func() bool { return false }, linked: func() {},
	}
	a.installed = transport.NewInstalled(transport.Children(), a.log)
	a.way = a.command
	a.ctx, a.cancel = context.WithCancel(context.Background())
	return a
}

// display is an agent's name as people see it.
func display(name string) string {
	if name == "" {
		return "default"
	}
	return name
}

// change changes how the agent is reached. A link that is up goes on as it was made.
func (a *agent) change(cfg config.Agent, plan transport.Plan) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cfg, a.plan = cfg, plan
	a.attempts, a.next = 0, time.Time{}
}

// know notes where another process found drvsock.exe.
func (a *agent) know(exe string) {
	if !a.installed.Know(exe) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.plan.Argv == nil {
		a.next = time.Time{} // what failed for the lack of it may work
		if a.trying != nil {
			a.trying.blind = true
		}
	}
}

// live gives the link, waiting for one that is being made. If the last try has
// failed and the next isn't due, it fails at once.
func (a *agent) live(ctx context.Context) (*uplink, error) {
	up, d, err := a.current()
	if d == nil {
		return up, err
	}
	select {
	case <-d.done:
		if d.err != nil && d.blind {
			return a.live(ctx) // once for each that became known
		}
		return d.up, d.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// current gives the live link, or the making of one.
func (a *agent) current() (*uplink, *dialing, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed:
		return nil, nil, errEnding
	case a.cur.alive():
		return a.cur, nil, nil
	}
	if a.cur != nil {
		a.bury(a.cur)
	}
	switch {
	case a.trying != nil:
		return nil, a.trying, nil
	case a.last != nil && time.Now().Before(a.next):
		return nil, nil, a.last
	}
	a.trying = &dialing{done: make(chan struct{})}
	a.since = time.Now()
	a.work.Add(1)
	go a.try(a.trying)
	return nil, a.trying, nil
}

func (u *uplink) alive() bool {
	if u == nil {
		return false
	}
	select {
	case <-u.Done():
		return false
	default:
		return true
	}
}

// try makes a link and says what came of it.
func (a *agent) try(d *dialing) {
	defer a.work.Done()
	a.mu.Lock()
	old, plan := a.cur, a.plan
	a.mu.Unlock()
	if old != nil {
		// First the old agent: one that only stands still holds its sockets, and
		// no other could make them anew.
		old.End()
	}
	up, err := a.dial(plan)
	a.mu.Lock()
	if err == nil && a.closed {
		err = errEnding
		a.work.Go(up.End)
	}
	a.trying, a.since = nil, time.Now()
	if err == nil {
		a.cur, d.up = up, up
		a.last = nil
		a.work.Go(func() { a.mourn(up) })
	} else {
		d.err = err
		a.failed(err)
		if d.blind {
			a.next = time.Time{}
			a.arm()
		}
	}
	a.mu.Unlock()
	close(d.done)
	if err == nil {
		peer := up.Peer()
		a.log.Info("link up", "build", peer.Build, "os", peer.OS, "pid", up.PID, "transport", up.kind, "because", up.Why)
		a.linked()
	}
}

// dial makes one link.
func (a *agent) dial(plan transport.Plan) (*uplink, error) {
	d := a.way(plan)
	up := &uplink{plan: plan, identity: identity(plan), kind: d.Kind(), routes: map[uint32]func(*link.Incoming){}}
	var err error
	up.Link, err = d.Dial(a.ctx, link.Config{Role: wire.RoleGuest, Build: build.Version(), Handler: up.incoming, Log: a.log})
	up.since, up.command = time.Now(), d.String()
	if err == nil && up.Way != "" {
		up.kind = up.Way
	}
	return up, err
}

// command is the way to an agent that is a command.
func (a *agent) command(plan transport.Plan) transport.Dialer {
	if plan.Argv == nil {
		return a.installed
	}
	return &transport.Command{Argv: plan.Argv, Starter: transport.Children(), Log: a.log}
}

// identity tells agents apart that have other drives or lead elsewhere.
func identity(p transport.Plan) string { return fmt.Sprintf("%q %v %t", p.Argv, p.Views, p.Only) }

// pause is what lies between two starts after n that failed, without jitter.
func pause(n int) time.Duration {
	if n > 6 {
		return lastPause
	}
	return min(firstPause<<max(n-1, 0), lastPause)
}

// failed counts a try that failed. Callers get err until the next. Called with mu.
func (a *agent) failed(err error) {
	a.attempts++
	a.wait(err, time.Now(), pause(a.attempts))
}

// lost counts a link that was lost at once; the pause lies between its start and
// the next. After one that held, there is none. Called with mu.
func (a *agent) lost(up *uplink, err error) {
	switch held := time.Since(up.since); {
	case held < heldAfter:
		a.attempts++
		a.wait(err, up.since, pause(a.attempts))
		return
	case held >= pause(a.attempts):
		a.attempts = 0
	}
	a.wait(err, up.since, 0)
}

// bury counts the loss of a link once, for whoever notices it first: a forward may before
// mourn does, and would start the next agent without a pause. Called with mu.
func (a *agent) bury(up *uplink) {
	if up.buried {
		return
	}
	up.buried = true
	a.since = time.Now()
	a.lost(up, fmt.Errorf("link lost: %w", up.Err()))
}

// wait sets the time of the next try to a pause after since. Called with mu.
func (a *agent) wait(err error, since time.Time, pause time.Duration) {
	a.note(err)
	a.last, a.next = err, since
	if pause > 0 {
		a.next = since.Add(pause*3/4 + rand.N(pause/2))
	}
	a.arm()
}

// note keeps a problem for the status. Called with mu.
func (a *agent) note(err error) {
	a.problem = newProblem(err)
}

// newProblem is err for the status: the link's, unless it says whose it is.
func newProblem(err error) *control.Problem {
	layer := errno.LayerLink
	var e *errno.Error
	if errors.As(err, &e) {
		layer = e.Layer
	}
	return &control.Problem{Layer: layer.String(), Text: err.Error(), Hint: report.HintOf(err), When: time.Now()}
}

// mourn waits for the end of a link and of its agent.
func (a *agent) mourn(up *uplink) {
	select {
	case <-up.Done():
	case <-a.ctx.Done():
		up.End()
		return
	}
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		up.End()
		return
	}
	a.bury(up)
	a.mu.Unlock()
	a.log.Warn("link lost", "err", up.Err())
	up.End()
}

// arm sees to the next try if the link is needed. Called with mu.
func (a *agent) arm() {
	if a.closed || a.trying != nil || a.cur.alive() {
		return
	}
	if a.timer != nil {
		a.timer.Stop()
	}
	a.timer = time.AfterFunc(max(time.Until(a.next), 0), func() {
		// Not with mu: the forwards ask for the link with locks of their own.
		if a.needed() {
			_, _, _ = a.current()
		}
	})
}

// poke makes the link if it is needed now.
func (a *agent) poke() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.arm()
}

// close ends the link and waits for the agent's end.
func (a *agent) close() {
	a.mu.Lock()
	a.closed = true
	if a.timer != nil {
		a.timer.Stop()
	}
	a.mu.Unlock()
	a.cancel()
	a.work.Wait()
}

// Open asks the agent for a stream.
func (a *agent) Open(ctx context.Context, req wire.Request) (*link.Stream, wire.Answer, error) {
	up, err := a.live(ctx)
	if err != nil {
		var e *errno.Error
		if ctx.Err() == nil && (!errors.As(err, &e) || e.Layer != errno.LayerLink) {
			err = errno.Errorf(errno.ENETDOWN, errno.LayerLink, "%v", err)
		}
		return nil, wire.Answer{}, err
	}
	return up.Link.Open(ctx, req)
}

// Route gives what comes in for the handle s to accepted.
func (a *agent) Route(s *link.Stream, accepted func(*link.Incoming)) {
	a.mu.Lock()
	up := a.cur
	a.mu.Unlock()
	if up != nil && up.Link.Link == s.Link() {
		up.route(s, accepted)
	}
}

// Path translates a guest path on a drive.
func (a *agent) Path(guest string) (string, bool) {
	a.mu.Lock()
	plan := a.plan
	if a.cur.alive() {
		plan = a.cur.plan
	}
	a.mu.Unlock()
	host, ok, err := a.drives.path(plan, guest)
	if err != nil {
		a.log.Warn("the drive of a path can't be told", "path", guest, "err", err)
	}
	return host, ok
}

// route gives what comes in for the handle s to accepted, until s is over.
func (u *uplink) route(s *link.Stream, accepted func(*link.Incoming)) {
	u.mu.Lock()
	u.routes[s.ID()] = accepted
	u.mu.Unlock()
	go func() {
		<-s.Done()
		u.mu.Lock()
		delete(u.routes, s.ID())
		u.mu.Unlock()
	}()
}

// incoming is the agent's word of a host program that connected.
func (u *uplink) incoming(in *link.Incoming) {
	if in.Request.Kind != wire.KindAccepted {
		in.Refuse(errno.Errorf(errno.EOPNOTSUPP, errno.LayerGuest, "request %s is not for a guest", in.Request.Kind))
		return
	}
	u.mu.Lock()
	accepted := u.routes[in.Request.From]
	u.mu.Unlock()
	if accepted == nil {
		in.Refuse(errno.Errorf(errno.ECONNREFUSED, errno.LayerGuest, "no such socket"))
		return
	}
	accepted(in)
}

// status tells how the link is.
func (a *agent) status() control.LinkStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := control.LinkStatus{Agent: a.name, State: control.LinkDown, Since: a.since, Attempts: a.attempts, LastError: a.problem}
	d := a.way(a.plan)
	s.Command, s.Transport = d.String(), d.Kind()
	switch {
	case a.cur.alive():
		peer := a.cur.Peer()
		s.State, s.Command, s.Transport, s.Reason = control.LinkUp, a.cur.command, a.cur.kind, a.cur.Why
		s.Build, s.OS, s.PID, s.Streams = peer.Build, peer.OS, a.cur.PID, a.cur.Streams()
		s.In, s.Out = a.cur.Bytes()
	case a.trying != nil:
		s.State = control.LinkStarting
	case a.last != nil && time.Now().Before(a.next):
		next := a.next
		s.State, s.NextTry = control.LinkWaiting, &next
	}
	return s
}
