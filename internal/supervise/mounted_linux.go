package supervise

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/drive"
	"drvsock/internal/mount"
	"drvsock/internal/names"
	"drvsock/internal/report"
	"drvsock/internal/seccomp"
	"drvsock/internal/shim"
	"drvsock/internal/transport"
	"drvsock/internal/view"
)

const busyHint = "a filter of its own is in force here: another drvsock run, or WSL's in Mirrored networking; " +
	"set networkingMode=nat in .wslconfig, or don't nest"

// choose tells whether the command is to live among views, as no filter can be, or
// as it was asked for.
func (m *master) choose() (mounted bool, err error) {
	switch m.cfg.By {
	case ByFilter:
		return false, nil
	case ByMount:
		return true, nil
	}
	o := m.filterOptions()
	err = seccomp.Probe(seccomp.Options{NoNewPrivs: o.NoNewPrivs, Dumpable: o.Dumpable, PeerCred: true})
	if err == nil {
		return false, nil
	}
	m.noFilter = err
	m.log.Info("no filter can be had, so the drives are mounted for this run alone", "reason", err)
	return true, nil
}

// runMounted is run without a filter. The views are served by this process, which
// lies outside of their namespace, so that neither it nor the agent meets them.
func (m *master) runMounted() error {
	places, err := m.places()
	if err != nil {
		return err
	}
	ns := shim.Namespaces()
	o := shim.Options{Mounted: true}
	for _, p := range places {
		o.Views = append(o.Views, shim.View{Dir: p.dir, HostPath: string(p.options.HostPath)})
	}
	if err := m.startCommand(o, ns); err != nil {
		return m.noViews(err)
	}
	defer unix.Close(m.shimSock)
	link := view.NewLink(m.dialer(), m.log)
	var served []*mount.Mounted
	closeAll := func() {
		for _, v := range slices.Backward(served) {
			_ = v.Close()
		}
		link.Close()
	}
	giveUp := func(err error) error {
		m.reaper.Signal(m.command, unix.SIGKILL)
		<-m.command.Done()
		closeAll()
		return err
	}
	linked := make(chan error, 1)
	go func() { linked <- link.First(context.Background()) }()
	for _, p := range places {
		g, err := shim.ReceiveView(m.shimSock)
		if err == nil {
			p.options.Host, p.options.OneAccount = link, ns.Cloneflags&unix.CLONE_NEWUSER != 0
			var v *mount.Mounted
			if v, err = mount.ServeGiven(g, p.options); err == nil {
				served = append(served, v)
				m.log.Info("mounted for this run", "host", string(p.options.HostPath), "dir", p.dir)
			}
		}
		if err != nil {
			err = giveUp(m.noViews(err))
			<-linked
			return err
		}
	}
	if err := <-linked; err != nil {
		return giveUp(err)
	}
	link.Follow(func() {
		for _, v := range served {
			v.LinkUp()
		}
	})
	m.agree()
	if err := shim.Go(m.shimSock); err != nil {
		<-m.command.Done()
		closeAll()
		if !errors.Is(err, shim.ErrNotRunnable) {
			err = m.noViews(err)
		}
		return fmt.Errorf("%s: %w", m.cfg.Argv[0], err)
	}
	m.tell(Event{PID: m.command.PID})
	m.stay(m.reaper.Deserted(m.command), func() <-chan struct{} { return idleViews(served) }, closeAll)
	return nil
}

// noViews is why there is nothing in the filter's place.
func (m *master) noViews(err error) error {
	if m.noFilter == nil {
		return m.advise(fmt.Errorf("mounting the drives for this run alone: %w", err), "")
	}
	both := fmt.Errorf("%w, and mounting the drives for this run alone: %w", m.noFilter, err)
	if errors.Is(m.noFilter, seccomp.ErrBusy) {
		return m.advise(both, busyHint)
	}
	return m.advise(both, "")
}

func (m *master) advise(err error, hint string) error {
	if f, ferr := os.OpenFile("/dev/fuse", os.O_RDWR, 0); ferr != nil {
		hint = fmt.Sprintf("a mount takes /dev/fuse: %v", errors.Unwrap(ferr))
	} else {
		_ = f.Close()
		if o := names.Obstacles(); hint == "" && os.Geteuid() != 0 && o != "" {
			hint = o
		}
	}
	if hint == "" {
		return err
	}
	return report.Hint(err, "%s", hint)
}

// idleViews is closed when no connection with a host program is open any more.
func idleViews(served []*mount.Mounted) <-chan struct{} {
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		for _, v := range served {
			for !v.Idle(time.Minute) {
			}
		}
	}()
	return idle
}

// A place is where a drive, or a part of one, is seen.
type place struct {
	dir     string
	options mount.Options
}

// places finds all mounts of drives and the folders of --drive, each before those
// that lie in it.
func (m *master) places() ([]place, error) {
	plan := transport.Plan{Only: m.cfg.DrivesOnly}
	var dirs []string
	for _, v := range m.cfg.Drives {
		plan.Views = append(plan.Views, drive.Override{Letter: v.Letter, View: string(v.View)})
		dir, err := filepath.Abs(string(v.View))
		if err == nil {
			dir, err = filepath.EvalSymlinks(dir)
		}
		if err != nil {
			return nil, fmt.Errorf("drive %c: %w", v.Letter, err)
		}
		dirs = append(dirs, dir)
	}
	table, err := drive.NewTable(drive.TableConfig{Overrides: plan.Views, OverridesOnly: plan.Only})
	if err != nil {
		return nil, err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	mounts, err := drive.ParseMounts(f)
	if err != nil {
		return nil, err
	}
	for _, mnt := range mounts {
		if _, ok := table.Host(drive.Location{Mount: mnt, Path: mnt.Root}); ok {
			dirs = append(dirs, mnt.Point)
		}
	}
	slices.SortFunc(dirs, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	var list []place
	for _, dir := range slices.Compact(dirs) {
		p := place{dir: dir, options: mount.Options{Beneath: dir, Log: m.log}}
		// What can't be entered, or lies under another mount, is seen by nobody.
		if err := view.OnDrive(plan, dir, &p.options); err != nil {
			m.log.Debug("not a drive to mount", "dir", dir, "err", err)
			continue
		}
		list = append(list, p)
	}
	return list, nil
}
