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
	"drvsock/internal/drive"
	"drvsock/internal/mount"
	"drvsock/internal/report"
	"drvsock/internal/transport"
)

func runMount(s Streams, f mountFlags, dir string) error {
	level := slog.LevelWarn
	if f.verbose {
		level = slog.LevelDebug
	}
	log := report.NewLog(s.Err, level)
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	// Else the folder can't even be looked at.
	if err := mount.Repair(dir, log); err != nil {
		return err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	o := mount.Options{Own: f.own, AllowOther: f.allowOther, ListenLate: f.listenLate, Log: log}
	agent, done, err := seenThrough(f.agent, dir, &o)
	if err != nil {
		return err
	}
	defer done()
	plan, err := transport.NewPlan(agent)
	if err == nil && plan.Argv == nil {
		plan.Argv, err = transport.DefaultAgent("")
	}
	if err == nil && o.HostPath == nil {
		err = onDrive(plan, dir, &o)
	}
	if err != nil {
		return err
	}
	stop, release := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer release()
	k := newMountLink(&transport.Command{Argv: plan.Argv, Starter: transport.Children(), Log: log}, log)
	defer k.close()
	if err := k.first(stop); err != nil {
		return err
	}
	o.Host = k
	m, err := mount.Mount(dir, o)
	if err != nil {
		return err
	}
	k.follow(m.LinkUp)
	fmt.Fprintf(s.Out, "mounted %s at %s\n", o.HostPath, dir)
	select {
	case <-stop.Done():
	case <-m.Done():
	}
	return m.Close()
}

// onDrive asks which folder of the host dir is.
func onDrive(plan transport.Plan, dir string, o *mount.Options) error {
	table, err := drive.NewTable(drive.TableConfig{Overrides: plan.Views, OverridesOnly: plan.Only})
	if err != nil {
		return err
	}
	mounts, err := drive.OpenMounts()
	if err != nil {
		return err
	}
	defer mounts.Close()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "mount", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	path, ok, err := drive.NewResolver(table, mounts).Resolve(fd, os.Getpid())
	if err != nil {
		return err
	}
	if !ok {
		return report.Hint(fmt.Errorf("%s is on no drive of the host", dir), "name the drive with --drive L=VIEW, or play a host with --embed L=DIR:VIEW")
	}
	o.HostPath = path
	var sx unix.Statx_t
	if unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &sx) == nil {
		if m, ok := mounts.Lookup(sx.Mnt_id); ok && (m.FSType == "9p" || m.FSType == "virtiofs") {
			o.Own = o.Own || hasMetadata(m.Super)
		}
	}
	return nil
}

// hasMetadata tells if a mount of DrvFS keeps owners of files, by the option
// "metadata" among those in "aname=drvfs;path=C:\;uid=1000;metadata;…".
func hasMetadata(super string) bool {
	for _, o := range strings.FieldsFunc(super, func(r rune) bool { return r == ',' || r == ';' }) {
		if o == "metadata" {
			return true
		}
	}
	return false
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
