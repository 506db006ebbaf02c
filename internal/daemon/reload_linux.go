package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"drvsock/internal/config"
	"drvsock/internal/control"
	"drvsock/internal/forward"
	"drvsock/internal/transport"
)

// reload reads the configuration again and makes it so. What is unchanged is
// left alone with its connections. The notes say what could not be done, or not
// yet. After an error everything is as it was.
func (d *daemon) reload() (notes []string, err error) {
	d.reading.Lock()
	defer d.reading.Unlock()
	d.manager.reloading()
	defer func() { d.manager.ready(d.words()) }()
	f, err := d.cfg.Load()
	if err == nil {
		err = d.apply(f)
	}
	var partly notApplied
	if errors.As(err, &partly) {
		notes, err = partly, nil
	}
	d.mu.Lock()
	d.configErr = err
	d.mu.Unlock()
	if err == nil {
		d.log.Info("configuration read", "file", d.cfg.File)
	}
	return notes, err
}

// notApplied are the parts of a configuration that could not be carried out.
type notApplied []string

func (n notApplied) Error() string { return fmt.Sprint([]string(n)) }

// apply makes the agents and forwards those of f.
func (d *daemon) apply(f *config.File) error {
	plans := map[string]transport.Plan{}
	agents := map[string]config.Agent{"": f.Agent}
	maps.Copy(agents, f.Agents)
	if d.cfg.Agent != nil {
		agents[""] = *d.cfg.Agent
	}
	for name, a := range agents {
		p, err := transport.NewPlan(a)
		if err != nil {
			return fmt.Errorf("agent %s: %w", display(name), err)
		}
		plans[name] = p
	}
	for _, w := range f.Forwards {
		if _, ok := agents[w.Agent]; !ok {
			return fmt.Errorf("forward %s: no agent is named %q", w.Name, w.Agent)
		}
	}
	var folders []config.Mount
	for _, m := range f.Mounts {
		r, err := m.Resolve()
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Dir, err)
		}
		folders = append(folders, r)
	}
	d.edit.Lock()
	defer d.edit.Unlock()
	if d.ctx.Err() != nil {
		return control.ErrEnding
	}
	var notes notApplied
	for name, m := range d.snapshot() {
		a, ok := agents[name]
		switch {
		case !ok:
			d.mu.Lock()
			delete(d.members, name)
			d.mu.Unlock()
			d.dismiss(m)
		case !reflect.DeepEqual(a, m.config()):
			m.change(a, plans[name])
			if m.up() {
				notes = append(notes, fmt.Sprintf("agent %s: the link goes on as it was, and its next one will be the new", display(name)))
			}
		}
	}
	for name, a := range agents {
		if d.snapshot()[name] == nil {
			d.add(name, a, plans[name])
		}
	}
	// What goes by another agent from now on leaves its own first: the listener
	// would stand in the new one's way.
	for name, m := range d.snapshot() {
		for _, s := range m.set.Status() {
			if w := f.Forward(s.Name); w != nil && w.Agent != name {
				_ = m.set.Remove(s.Name)
			}
		}
	}
	for name, m := range d.snapshot() {
		var fs []config.Forward
		for _, w := range f.Forwards {
			if w.Agent == name {
				fs = append(fs, w)
			}
		}
		for _, err := range m.set.Apply(fs) {
			d.log.Warn("configuration", "err", err)
			notes = append(notes, err.Error())
		}
		m.poke()
	}
	notes = append(notes, d.applyMounts(folders, agents)...)
	if len(notes) > 0 {
		return notes
	}
	return nil
}

// add makes an agent. Called with edit.
func (d *daemon) add(name string, cfg config.Agent, plan transport.Plan) {
	m := &member{agent: newAgent(name, cfg, plan, d.drives, d.log)}
	if d.cfg.way != nil {
		m.way = d.cfg.way
	}
	m.set = forward.NewSet(m.agent, m.log)
	m.needed, m.linked = m.set.NeedsLink, m.set.LinkUp
	d.mu.Lock()
	d.members[name] = m
	d.mu.Unlock()
}

func (d *daemon) snapshot() map[string]*member {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.members)
}

func sorted(members map[string]*member) []*member {
	return slices.SortedFunc(maps.Values(members), func(a, b *member) int { return cmp.Compare(a.name, b.name) })
}
