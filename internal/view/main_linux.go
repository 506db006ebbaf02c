package view

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"drvsock/internal/mount"
	"drvsock/internal/report"
	"drvsock/internal/transport"
)

// Main is the process; args begin behind Word. The daemon learns of every outcome
// by a Report, so the exit code is only for logs.
func Main(args []string) int {
	if len(args) != 1 {
		return 1
	}
	fd, err := strconv.Atoi(args[0])
	if err != nil {
		return 1
	}
	unix.CloseOnExec(fd)
	control := os.NewFile(uintptr(fd), "daemon")
	// The daemon reads what is said on stderr, and may be gone before the view is.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	dec, enc := json.NewDecoder(control), json.NewEncoder(control)
	var o Order
	if dec.Decode(&o) != nil {
		return 1
	}
	released := make(chan struct{})
	go func() {
		defer close(released)
		var any struct{}
		for dec.Decode(&any) == nil {
		}
	}()
	level := slog.LevelInfo
	if o.Verbose {
		level = slog.LevelDebug
	}
	s := &server{order: o, log: report.NewLog(os.Stderr, level)}
	if err := s.mount(); err != nil {
		_ = enc.Encode(Report{Error: err.Error(), Hint: report.HintOf(err)})
		return 1
	}
	_ = enc.Encode(Report{Mounted: true, Dir: s.dir, HostPath: string(s.opts.HostPath)})
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	select {
	case <-released: // or the daemon is no more
	case <-stop:
	case <-s.mounted.Done():
		_ = enc.Encode(Report{Gone: true})
	case <-s.mounted.Unmounted():
		_ = enc.Encode(Report{Gone: true})
		// Some may use it for longer.
		select {
		case <-released:
		case <-stop:
		case <-s.mounted.Done():
		}
	}
	err = s.mounted.Close()
	s.link.Close()
	if err != nil {
		s.log.Error("unmount", "err", err)
		return 1
	}
	return 0
}

// server is the process.
type server struct {
	order   Order
	log     *slog.Logger
	dir     string
	opts    mount.Options
	link    *Link
	mounted *mount.Mounted
}

// mount lays the view.
func (s *server) mount() error {
	m := s.order.Mount
	if err := CheckOther(m.AllowOther); err != nil {
		return err
	}
	// A dead view can't even be looked at.
	if err := mount.Repair(m.Dir, s.log); err != nil {
		return err
	}
	dir, err := filepath.EvalSymlinks(m.Dir)
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	s.dir = dir
	s.opts = mount.Options{Own: m.Own, AllowOther: m.AllowOther, ListenLate: m.ListenLate, Log: s.log}
	plan, err := transport.NewPlan(s.order.Agent)
	if err != nil {
		return err
	}
	ok, err := onEmbedded(s.order.Agent, dir, &s.opts)
	if err == nil && !ok {
		err = OnDrive(plan, dir, &s.opts)
	}
	if err != nil {
		return err
	}
	s.link = NewLink(&transport.Session{Agent: m.Agent, Program: "mount " + dir, Running: true}, s.log)
	s.opts.Host = s.link
	if s.mounted, err = mount.Mount(dir, s.opts); err != nil {
		s.link.Close()
		return Advise(err, dir)
	}
	s.link.Follow(s.mounted.LinkUp)
	s.link.Begin()
	return nil
}
