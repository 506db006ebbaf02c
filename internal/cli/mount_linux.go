package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"drvsock/internal/config"
	"drvsock/internal/mount"
	"drvsock/internal/report"
	"drvsock/internal/transport"
	"drvsock/internal/view"
)

// serveMount is the mount in the foreground; dir is absolute.
func serveMount(s Streams, f mountFlags, dir string) error {
	level := slog.LevelWarn
	if f.verbose {
		level = slog.LevelDebug
	}
	log := report.NewLog(s.Err, level)
	if err := view.CheckOther(f.AllowOther); err != nil {
		return err
	}
	// Else the folder can't even be looked at.
	if err := mount.Repair(dir, log); err != nil {
		return err
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	o := mount.Options{Own: f.Own, AllowOther: f.AllowOther, ListenLate: f.ListenLate, Log: log}
	agent, done, err := seenThrough(f.agent, dir, &o)
	if err != nil {
		return err
	}
	defer done()
	stop, release := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer release()
	plan, err := transport.NewPlan(agent)
	if err == nil && plan.Argv == nil {
		plan.Argv, err = transport.FindAgent(stop)
	}
	if err == nil && o.HostPath == nil {
		err = view.OnDrive(plan, dir, &o)
	}
	if err != nil {
		return err
	}
	k := view.NewLink(&transport.Command{Argv: plan.Argv, Starter: transport.Children(), Log: log}, log)
	defer k.Close()
	if err := k.First(stop); err != nil {
		return err
	}
	o.Host = k
	m, err := mount.Mount(dir, o)
	if err != nil {
		return view.Advise(err, dir)
	}
	k.Follow(m.LinkUp)
	fmt.Fprintf(s.Out, "mounted %s at %s\n", o.HostPath, dir)
	select {
	case <-stop.Done():
	case <-m.Done():
	}
	return m.Close()
}

// seenThrough is what the agent is told where it plays a host on this very
// machine: its drives by descriptors, opened before the view is laid over one,
// so that the agent does not meet the view. done closes them.
func seenThrough(a config.Agent, dir string, o *mount.Options) (_ config.Agent, done func(), err error) {
	var fds []int
	done = func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}
	defer func() {
		if err != nil {
			done()
		}
	}()
	for i, e := range a.Embed {
		letter, dirs, err := transport.SplitDrive("--embed", e)
		if err != nil {
			return a, done, err
		}
		from, view, ok := strings.Cut(dirs, ":")
		if !ok {
			view = from
		}
		fd, err := unix.Open(from, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return a, done, &os.PathError{Op: "open", Path: from, Err: err}
		}
		fds = append(fds, fd)
		held := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
		if i == 0 {
			a.Embed = append([]string{}, a.Embed...)
		}
		a.Embed[i] = fmt.Sprintf("%c=%s:%s", letter, held, view)
		if full, err := filepath.EvalSymlinks(view); err == nil {
			if full, err = filepath.Abs(full); err == nil && full == dir {
				o.HostPath, o.Beneath = []byte{letter, ':', '\\'}, held
			}
		}
	}
	if len(a.Embed) > 0 && o.HostPath == nil {
		return a, done, report.Hint(fmt.Errorf("%s is not where a drive of --embed is seen", dir), "mount the drive's whole view, as in: drvsock mount --embed C=DIR:VIEW VIEW")
	}
	return a, done, nil
}
