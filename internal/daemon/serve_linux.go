package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"time"

	"drvsock/internal/build"
	"drvsock/internal/config"
	"drvsock/internal/control"
	"drvsock/internal/forward"
	"drvsock/internal/link"
	"drvsock/internal/report"
	"drvsock/internal/transport"
)

// call answers one request.
func (d *daemon) call(ctx context.Context, c *control.Call) {
	r := &c.Request
	if r.Op != control.OpStatus && r.Op != control.OpDown { // who only looks or ends it doesn't need it
		if !d.enter() {
			c.Refuse(control.ErrEnding)
			return
		}
		defer d.leave()
	}
	var resp *control.Response
	var err error
	switch r.Op {
	case control.OpStatus:
		resp = &control.Response{Status: d.status()}
	case control.OpUp:
		resp, err = d.up(ctx, r)
	case control.OpDown:
		d.end()
		<-d.ended
		resp = &control.Response{}
	case control.OpReload:
		resp = &control.Response{}
		resp.Notes, err = d.reload()
	case control.OpViews:
		resp, err = d.views(r)
	case control.OpSession:
		err = d.session(ctx, c)
		if err == nil {
			return
		}
	case control.OpForwardAdd:
		resp, err = d.addForward(r)
	case control.OpForwardRemove:
		resp, err = d.removeForward(r)
	case control.OpForwardList:
		resp = &control.Response{Forwards: d.status().Forwards}
	case control.OpMountAdd:
		resp, err = d.addMount(ctx, r)
	case control.OpMountRemove:
		resp, err = d.removeMount(r)
	case control.OpMountList:
		resp = &control.Response{Mounts: d.status().Mounts}
	default:
		err = report.Hint(fmt.Errorf("the daemon (build %s) does not know the request %q", build.Version(), r.Op), "drvsock down, and the next one will be new")
	}
	if err != nil {
		if d.ctx.Err() != nil {
			err = control.ErrEnding // whatever it was, another daemon may do it
		}
		c.Refuse(err)
		return
	}
	_ = c.Answer(resp) // who asked may be gone
}

// socket is the path of the control socket: a service manager's may lie elsewhere
// than its clients' variables say.
func (d *daemon) socket() string {
	if d.cfg.Listener != nil {
		return d.cfg.Listener.Addr().String()
	}
	return d.cfg.Folder.Socket()
}

func (d *daemon) status() *control.Status {
	s := &control.Status{
		Daemon: control.DaemonStatus{
			PID: os.Getpid(), Build: build.Version(), Started: d.started, Socket: d.socket(),
			Config: d.cfg.File,
		},
		// In JSON an empty list is no null.
		Links: []control.LinkStatus{}, Forwards: []forward.Status{}, Sessions: []control.SessionStatus{},
	}
	if d.cfg.Background {
		s.Daemon.Log = d.cfg.Folder.Log()
	}
	for _, m := range d.all() {
		s.Links = append(s.Links, m.status())
		s.Forwards = append(s.Forwards, m.set.Status()...)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s.Daemon.Stays = d.stays
	if d.configErr != nil {
		s.Daemon.ConfigError = d.configErr.Error()
	}
	for x := range d.sessions {
		s.Sessions = append(s.Sessions, x.status())
	}
	s.Mounts, s.Sessions = d.mountStatus(s.Sessions)
	slices.SortFunc(s.Sessions, func(a, b control.SessionStatus) int { return cmp.Or(a.Since.Compare(b.Since), a.PID-b.PID) })
	return s
}

// up makes the daemon stay, and brings the default link up.
func (d *daemon) up(ctx context.Context, r *control.Request) (*control.Response, error) {
	m, err := d.member("")
	if err != nil {
		return nil, err
	}
	if r.Agent != nil && !reflect.DeepEqual(*r.Agent, m.config()) {
		return nil, report.Hint(fmt.Errorf("the daemon runs with another agent: %s", m.status().Command), "drvsock down, then drvsock up again")
	}
	d.mu.Lock()
	d.stays = true
	d.mu.Unlock()
	m.know(r.Exe)
	if r.Wait <= 0 {
		_, _, _ = m.current() // which begins to make it
		return &control.Response{}, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(r.Wait)*time.Millisecond, errors.New("no link within the time"))
	defer cancel()
	if _, err := m.live(ctx); err != nil {
		return nil, err
	}
	return &control.Response{}, nil
}

func (d *daemon) views(r *control.Request) (*control.Response, error) {
	m, err := d.member(r.Name)
	if err != nil {
		return nil, err
	}
	m.know(r.Exe)
	plan := m.planNow()
	return &control.Response{Views: views(plan), Only: plan.Only, Identity: identity(plan)}, nil
}

// session lends the link to a process. It answers the call itself, unless it
// returns an error.
func (d *daemon) session(ctx context.Context, c *control.Call) error {
	r := &c.Request
	m, err := d.member(r.Name)
	if err != nil {
		return err
	}
	m.know(r.Exe)
	up, err := m.live(ctx)
	if err != nil {
		return err
	}
	if r.Identity != "" && r.Identity != up.identity {
		return report.Hint(errAgents, "a run stays with the agent that it began with; begin another one")
	}
	var to, from [2]*os.File // read and write end of the pipe to the process, and from it
	for _, p := range []*[2]*os.File{&to, &from} {
		if p[0], p[1], err = os.Pipe(); err != nil {
			for _, f := range to {
				if f != nil {
					_ = f.Close()
				}
			}
			return err
		}
	}
	rw, err := link.Files(from[0], to[1])
	if err != nil {
		_, _ = to[0].Close(), from[1].Close()
		return err
	}
	s := &session{
		pid: c.Peer.PID, program: r.Program, agent: m.agent, up: up, since: time.Now(),
		log:   m.log.With("session", c.Peer.PID),
		ready: make(chan struct{}), handles: map[uint32]*link.Stream{},
	}
	if s.program == "" {
		s.program = nameOf(s.pid)
	}
	d.mu.Lock()
	d.sessions[s] = struct{}{}
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.sessions, s)
		d.mu.Unlock()
		d.manager.status(d.words())
	}()
	err = c.Answer(&control.Response{Views: views(up.plan), Only: up.plan.Only, Identity: up.identity}, to[0], from[1])
	_, _ = to[0].Close(), from[1].Close()
	if err != nil {
		_ = rw.Close()
		return nil
	}
	d.manager.status(d.words())
	s.log.Info("session begins", "program", s.program)
	if err := s.serve(ctx, rw); err != nil {
		s.log.Warn("session", "err", err)
	}
	s.log.Info("session ended", "program", s.program)
	return nil
}

// addForward starts a forward that lasts as long as the daemon, or until a reload
// of a configuration in which it was saved.
func (d *daemon) addForward(r *control.Request) (*control.Response, error) {
	if r.Forward == nil {
		return nil, errors.New("no forward is given")
	}
	f := *r.Forward
	m, err := d.member(f.Agent)
	if err != nil {
		return nil, err
	}
	m.know(r.Exe)
	d.edit.Lock()
	defer d.edit.Unlock()
	res, err := f.Resolve()
	if err != nil {
		return nil, err
	}
	// Who says it twice, as a startup file does, has it once. And where one of ours
	// listens is not found out by connecting, which would be a client of it.
	for _, o := range d.all() {
		switch st, same := o.set.Like(res); {
		case st == nil:
		case same && st.State == forward.Failed && st.LastError != nil:
			return nil, report.Hint(fmt.Errorf("the forward %s is there already, and has failed: %s", st.Name, st.LastError.Text), "drvsock forward rm %s", st.Name)
		case same:
			if r.Saved {
				o.set.Saved(st.Name)
			}
			return &control.Response{Forwards: []forward.Status{*st}}, nil
		case f.Name != st.Name:
			return nil, report.Hint(fmt.Errorf("the forward %s listens on %s already, for %s", st.Name, st.Listen, st.Connect), "drvsock forward rm %s", st.Name)
		}
	}
	taken := func(name string) bool { return d.holder(name) != nil }
	if f.Name == "" {
		f.Name = config.DefaultName(res.From, taken)
	}
	if taken(f.Name) {
		return nil, report.Hint(fmt.Errorf("a forward named %s is there already", f.Name), "drvsock forward rm %s", f.Name)
	}
	if err := m.set.Add(f); err != nil {
		return nil, err
	}
	if r.Saved {
		m.set.Saved(f.Name)
	}
	m.poke()
	resp := &control.Response{}
	for _, s := range m.set.Status() {
		if s.Name == f.Name {
			resp.Forwards = append(resp.Forwards, s)
		}
	}
	return resp, nil
}

func (d *daemon) removeForward(r *control.Request) (*control.Response, error) {
	d.edit.Lock()
	defer d.edit.Unlock()
	m := d.holder(r.Name)
	if m == nil {
		return nil, report.Hint(fmt.Errorf("no forward is named %q", r.Name), "drvsock forward list")
	}
	return &control.Response{}, m.set.Remove(r.Name)
}

// holder finds the agent by which a forward goes.
func (d *daemon) holder(name string) *member {
	for _, m := range d.all() {
		for _, s := range m.set.Status() {
			if s.Name == name {
				return m
			}
		}
	}
	return nil
}

// config is how the agent is reached, or will be next time.
func (a *agent) config() config.Agent {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cfg
}

// planNow is that of the link, or of the next one.
func (a *agent) planNow() transport.Plan {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cur.alive() {
		return a.cur.plan
	}
	return a.plan
}

func (a *agent) up() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cur.alive()
}
