package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"drvsock/internal/config"
	"drvsock/internal/control"
	"drvsock/internal/errno"
	"drvsock/internal/mount"
	"drvsock/internal/report"
	"drvsock/internal/transport"
	"drvsock/internal/view"
)

// Pauses before a view that could not be laid, or whose process died, is tried
// again.
const (
	firstMountPause = time.Second
	lastMountPause  = time.Minute
	// steadyAfter is how long a view must be there for the pauses to begin anew.
	steadyAfter = 30 * time.Second
)

// mounts are the folders that have views.
type mounts struct {
	mu  sync.Mutex
	all map[string]*mounted // by folder, as it was named
}

// mounted is one of them over time: its process, and the next one after that died.
type mounted struct {
	order  view.Order
	log    *slog.Logger
	ctx    context.Context // ends with end
	cancel context.CancelFunc
	first  chan error // gets what came of the first try
	over   chan struct{}

	mu      sync.Mutex
	state   string
	since   time.Time
	process *view.Process // nil if there is none
	problem *control.Problem
}

// newMounted begins to lay a view. once ends it after a first try that failed.
func newMounted(o view.Order, log *slog.Logger, once bool) *mounted {
	m := &mounted{
		order: o, log: log.With("mount", o.Mount.Dir), first: make(chan error, 1), over: make(chan struct{}),
		state: control.MountStarting, since: time.Now(),
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	go m.live(once)
	return m
}

// live keeps the view until end, or until somebody unmounts it.
func (m *mounted) live(once bool) {
	defer close(m.over)
	for pause := firstMountPause; ; pause = min(2*pause, lastMountPause) {
		m.set(control.MountStarting, nil, nil)
		p, err := view.Start(m.ctx, m.order, m.log)
		start, held := time.Now(), time.Duration(0)
		if err == nil {
			m.set(control.MountServed, p, nil)
			m.log.Info("mounted", "host", p.HostPath, "dir", p.Dir, "pid", p.PID)
		}
		select {
		case m.first <- err:
		default:
		}
		if err == nil {
			select {
			case <-p.Done():
			case <-p.Gone():
			case <-m.ctx.Done():
			}
			held = time.Since(start) // without what starting and ending took
			select {
			case <-p.Gone():
				m.log.Info("unmounted by somebody else")
				return
			default:
			}
			p.End()
			err = errors.New("the process that served it died")
		} else if once {
			return
		}
		if m.ctx.Err() != nil {
			return
		}
		m.log.Warn("mount", "err", err)
		m.set(control.MountFailed, nil, err)
		if held > steadyAfter {
			pause = firstMountPause
		}
		once = false
		select {
		case <-m.ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (m *mounted) set(state string, p *view.Process, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != state {
		m.state, m.since = state, time.Now()
	}
	m.process = p
	if err != nil {
		m.problem = &control.Problem{Layer: errno.LayerGuest.String(), Text: err.Error(), Hint: report.HintOf(err), When: time.Now()}
	}
}

// end unmounts and waits for it, within the bounds that package view has.
func (m *mounted) end() {
	m.cancel()
	<-m.over
}

// ended tells whether nobody keeps it any more.
func (m *mounted) ended() bool {
	select {
	case <-m.over:
		return true
	default:
		return false
	}
}

func (m *mounted) status() control.MountStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := control.MountStatus{Dir: m.order.Mount.Dir, Agent: m.order.Mount.Agent, State: m.state, Since: m.since, LastError: m.problem}
	if m.process != nil {
		s.Dir, s.HostPath, s.PID = m.process.Dir, m.process.HostPath, m.process.PID
	}
	return s
}

// repairDead takes away what views of a daemon that was killed together with them
// may have left. Others' are not this user's to take away.
func repairDead(log *slog.Logger) {
	list, err := mount.List()
	if err != nil {
		log.Warn("mounts", "err", err)
		return
	}
	for _, e := range list {
		if !e.Dead {
			continue
		}
		if err := mount.Repair(e.Dir, log); err != nil {
			log.Info("a dead view stays", "dir", e.Dir, "err", err)
		}
	}
}

// live lists those that are kept, by folder.
func (ms *mounts) live() []*mounted {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	var list []*mounted
	for dir, m := range ms.all {
		if m.ended() {
			delete(ms.all, dir)
			continue
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b *mounted) int { return cmp.Compare(a.order.Mount.Dir, b.order.Mount.Dir) })
	return list
}

// find returns the mount over dir, by the name that it was given or its own.
func (ms *mounts) find(dir string) *mounted {
	for _, m := range ms.live() {
		if m.order.Mount.Dir == dir || m.status().Dir == dir {
			return m
		}
	}
	return nil
}

func (ms *mounts) add(m *mounted) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	ms.all[m.order.Mount.Dir] = m
}

func (ms *mounts) drop(m *mounted) {
	m.end()
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if ms.all[m.order.Mount.Dir] == m {
		delete(ms.all, m.order.Mount.Dir)
	}
}

// end takes all away at once, and waits for it.
func (ms *mounts) end() {
	var wg sync.WaitGroup
	for _, m := range ms.live() {
		wg.Go(func() { ms.drop(m) })
	}
	wg.Wait()
}

// order makes the words for a view's process.
func (d *daemon) order(m config.Mount, a config.Agent) (view.Order, error) {
	abs, err := transport.Absolute(a)
	return view.Order{Mount: m, Agent: abs, Verbose: d.cfg.Level < slog.LevelInfo}, err
}

// applyMounts makes the mounts that the configuration brought about those of
// list, resolved. Others, which people asked for, stay. Called with edit.
func (d *daemon) applyMounts(list []config.Mount, agents map[string]config.Agent) (notes []string) {
	want := map[string]view.Order{}
	for _, m := range list {
		o, err := d.order(m, agents[m.Agent])
		if err != nil {
			notes = append(notes, fmt.Sprintf("mount %s: %v", m.Dir, err))
			continue
		}
		want[m.Dir] = o
	}
	for dir, m := range d.saved {
		if o, ok := want[dir]; ok && reflect.DeepEqual(o, m.order) && !m.ended() {
			continue
		}
		d.mounts.drop(m)
		delete(d.saved, dir)
	}
	for dir, o := range want {
		if d.saved[dir] != nil {
			continue
		}
		if m := d.mounts.find(dir); m != nil {
			if reflect.DeepEqual(o, m.order) {
				d.saved[dir] = m // asked for first and saved then
				continue
			}
			d.mounts.drop(m)
		}
		m := newMounted(o, d.log, false)
		d.mounts.add(m)
		d.saved[dir] = m
	}
	return notes
}

// addMount lays a view that lasts as long as the daemon.
func (d *daemon) addMount(ctx context.Context, r *control.Request) (*control.Response, error) {
	if r.Mount == nil {
		return nil, errors.New("no mount is given")
	}
	cfg, err := r.Mount.Resolve()
	if err != nil {
		return nil, err
	}
	m, err := d.member(cfg.Agent)
	if err != nil {
		return nil, err
	}
	m.know(r.Exe)
	// A view without a link would be there and refuse everything; who asks for it
	// now wants to know.
	if _, err := m.live(ctx); err != nil {
		return nil, err
	}
	o, err := d.order(cfg, m.config())
	if err != nil {
		return nil, err
	}
	d.edit.Lock()
	if d.ctx.Err() != nil {
		d.edit.Unlock()
		return nil, control.ErrEnding
	}
	if x := d.mounts.find(cfg.Dir); x != nil {
		same := r.Saved && reflect.DeepEqual(o, x.order)
		if same {
			d.saved[cfg.Dir] = x
		}
		d.edit.Unlock()
		if same {
			return &control.Response{Mounts: []control.MountStatus{x.status()}}, nil
		}
		return nil, report.Hint(fmt.Errorf("%s: %w", cfg.Dir, mount.ErrMounted), "drvsock umount %s", cfg.Dir)
	}
	x := newMounted(o, d.log, true)
	d.mounts.add(x)
	d.edit.Unlock()
	select {
	case err = <-x.first:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		d.mounts.drop(x)
		return nil, err
	}
	return &control.Response{Mounts: []control.MountStatus{x.status()}}, nil
}

// removeMount takes a view away.
func (d *daemon) removeMount(r *control.Request) (*control.Response, error) {
	d.edit.Lock()
	defer d.edit.Unlock()
	m := d.mounts.find(filepath.Clean(r.Name))
	if m == nil {
		return nil, fmt.Errorf("%s: %w", r.Name, mount.ErrNotMounted)
	}
	st := m.status()
	d.mounts.drop(m)
	delete(d.saved, m.order.Mount.Dir)
	return &control.Response{Mounts: []control.MountStatus{st}}, nil
}

// mountStatus tells how the mounts are. The sessions of their processes are not
// those of a run: they are taken out of list, and told with the mounts.
func (d *daemon) mountStatus(list []control.SessionStatus) (ms []control.MountStatus, rest []control.SessionStatus) {
	ms, rest = []control.MountStatus{}, []control.SessionStatus{}
	for _, m := range d.mounts.live() {
		ms = append(ms, m.status())
	}
	for _, s := range list {
		i := slices.IndexFunc(ms, func(m control.MountStatus) bool { return m.PID == s.PID && s.PID != 0 })
		if i < 0 {
			rest = append(rest, s)
			continue
		}
		ms[i].Streams += s.Streams
		ms[i].Listeners += s.Listeners
	}
	return ms, rest
}
