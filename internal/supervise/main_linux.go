package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/drive"
	"drvsock/internal/reaper"
	"drvsock/internal/report"
	"drvsock/internal/seccomp"
	"drvsock/internal/shim"
	"drvsock/internal/transport"
)

// How long the end of the command waits for what usually follows at once. Past
// these, the front is told and the supervisor goes on in the background.
const (
	treeEndWait = 50 * time.Millisecond // the kernel's word that nobody else uses the filter
	drainWait   = time.Second           // bytes still on their way to the host
)

// Main is the supervisor; args begin behind Word. The front learns of every
// outcome by an Event, so the exit code is only for logs.
func Main(args []string) int {
	if len(args) != 1 {
		return 125
	}
	fd, err := strconv.Atoi(args[0])
	if err != nil {
		return 125
	}
	unix.CloseOnExec(fd)
	// Until it has a process group of its own, the terminal's signals come here
	// too. Caught, not ignored: the command must not inherit that.
	signal.Notify(make(chan os.Signal, 1), Heeded(unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)...)
	control := os.NewFile(uintptr(fd), "front")
	dec := json.NewDecoder(control)
	var cfg Config
	if err := dec.Decode(&cfg); err != nil {
		return 125
	}
	level := slog.LevelWarn
	if cfg.Verbose {
		level = slog.LevelDebug
	}
	m := &master{
		cfg: cfg, log: report.NewLog(os.Stderr, level),
		front: json.NewEncoder(control), frontGone: make(chan struct{}), agreed: make(chan struct{}),
	}
	if m.frontFD, err = unix.PidfdOpen(os.Getppid(), 0); err != nil {
		return 125
	}
	go func() {
		defer close(m.frontGone)
		var any struct{}
		if dec.Decode(&any) != nil {
			return
		}
		close(m.agreed)
		for dec.Decode(&any) == nil {
		}
	}()
	if err := m.run(); err != nil {
		code := 125
		if errors.Is(err, shim.ErrNotRunnable) {
			code = 126
			if errors.Is(err, os.ErrNotExist) {
				code = 127
			}
		}
		m.tell(Event{Error: err.Error(), Hint: report.HintOf(err), Code: code})
		return code
	}
	return 0
}

// master starts and ends the parts of the supervisor.
type master struct {
	cfg       Config
	log       *slog.Logger
	front     *json.Encoder
	tellMu    sync.Mutex
	frontFD   int // pidfd: we may outlive the front, and its number be another's
	frontGone chan struct{}
	agreed    chan struct{} // closed when the front knows that the command may run
	reaper    *reaper.Reaper
	command   *reaper.Process
	shimSock  int
	noFilter  error // why there is none, nil if nobody has tried
}

func (m *master) tell(e Event) {
	m.tellMu.Lock()
	defer m.tellMu.Unlock()
	_ = m.front.Encode(e) // a front that is gone is noticed where it is read
}

func (m *master) run() (err error) {
	if m.reaper, err = reaper.New(); err != nil {
		return err
	}
	defer m.reaper.Close()
	mounted, err := m.choose()
	if err != nil {
		return err
	}
	if mounted {
		return m.runMounted()
	}
	if err := m.startCommand(m.filterOptions(), nil); err != nil {
		return err
	}
	defer unix.Close(m.shimSock)
	s, err := m.prepare()
	if err != nil {
		m.reaper.Signal(m.command, unix.SIGKILL)
		<-m.command.Done()
		return err
	}
	m.agree()
	if err := shim.Go(m.shimSock); err != nil {
		<-m.command.Done()
		s.close()
		return fmt.Errorf("%s: %w", m.cfg.Argv[0], err)
	}
	m.tell(Event{PID: m.command.PID})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.serve()
	}()
	m.accompany(s, ended)
	return nil
}

// agree waits until the front knows that the command is about to run: signals that
// are for the command to take would end one that the front doesn't know of.
func (m *master) agree() {
	m.tell(Event{Ready: true})
	select {
	case <-m.agreed:
	case <-m.frontGone:
		m.reaper.Signal(m.command, unix.SIGKILL)
	}
}

// startCommand starts the shim with everything that the user's shell meant for
// the command, and then lets go of it.
func (m *master) startCommand(o shim.Options, sys *syscall.SysProcAttr) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	inherited := Inherited()
	if _, err = unix.FcntlInt(uintptr(pair[1]), unix.F_SETFD, 0); err == nil {
		m.command, err = m.reaper.Start("/proc/self/exe", shim.Args(pair[1], o, string(m.cfg.Path), m.cfg.Argv),
			&syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: sys}, m.commandChanged)
	}
	_ = unix.Close(pair[1])
	if err != nil {
		_ = unix.Close(pair[0])
		return fmt.Errorf("start the command's process: %w", err)
	}
	m.shimSock = pair[0]
	for _, fd := range inherited {
		_ = unix.Close(fd)
	}
	if err := nullOver(0, 1); err != nil {
		return err
	}
	// The shim has the front's process group; from here on the terminal's
	// signals are not for us, and a background group may still write to it.
	if err := unix.Setpgid(0, 0); err != nil {
		return os.NewSyscallError("setpgid", err)
	}
	signal.Ignore(unix.SIGTTOU)
	return nil
}

func nullOver(fds ...int) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for _, fd := range fds {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	return nil
}

// commandChanged passes the command's stops on: the front stops and is
// continued with it.
func (m *master) commandChanged(ws unix.WaitStatus) {
	switch {
	case ws.Stopped():
		go m.tell(Event{Stopped: true})
	case ws.Continued():
		m.continueFront()
	}
}

func (m *master) continueFront() { _ = unix.PidfdSendSignal(m.frontFD, unix.SIGCONT, nil, 0) }

// filterOptions are those of the filter for this user.
func (m *master) filterOptions() shim.Options {
	if os.Geteuid() == 0 {
		return shim.Options{}
	}
	return shim.Options{NoNewPrivs: true, Dumpable: true}
}

// prepare makes everything that the command's first call may need. The parts
// don't depend on each other and each takes a new process, so they start at once.
func (m *master) prepare() (*supervisor, error) {
	s := newSupervisor(m.log)
	var wg sync.WaitGroup
	var errs [3]error
	wg.Go(func() {
		fd, err := shim.Listener(m.shimSock)
		if err != nil {
			errs[0] = err
			if errors.Is(err, seccomp.ErrBusy) {
				errs[0] = report.Hint(err, busyHint)
			}
			return
		}
		s.notify, errs[0] = seccomp.NewListener(fd)
	})
	wg.Go(func() {
		s.names, errs[1] = startNaming(m.spawnNames, m.log)
	})
	wg.Go(func() {
		s.host = newHost(m.dialer(), m.log, s.accepted, s.restore)
		_, errs[2] = s.host.link(context.Background())
	})
	drives, mounts, err := m.drives()
	wg.Wait()
	s.drives, s.mounts = drives, mounts
	if err := errors.Join(append(errs[:], err)...); err != nil {
		s.close()
		// The first one is enough: what failed later mostly failed because of it.
		for _, e := range append(errs[:], err) {
			if e != nil {
				return nil, e
			}
		}
	}
	return s, nil
}

// dialer is the way to the agent.
func (m *master) dialer() transport.Dialer {
	if s := m.cfg.Session; s != nil {
		return &transport.Session{Agent: s.Agent, Identity: s.Identity, Program: filepath.Base(m.cfg.Argv[0])}
	}
	return &transport.Command{Argv: m.cfg.Link, Starter: transport.Reaped(m.reaper), Log: m.log}
}

func (m *master) drives() (*drive.Resolver, *drive.Mounts, error) {
	mounts, err := drive.OpenMounts()
	if err != nil {
		return nil, nil, err
	}
	var views []drive.Override
	for _, v := range m.cfg.Drives {
		views = append(views, drive.Override{Letter: v.Letter, View: string(v.View)})
	}
	table, err := drive.NewTable(drive.TableConfig{Overrides: views, OverridesOnly: m.cfg.DrivesOnly})
	if err != nil {
		mounts.Close()
		return nil, nil, err
	}
	return drive.NewResolver(table, mounts), mounts, nil
}

// spawnNames starts the name keeper as a child of ours, so that the one reaper
// waits for it.
func (m *master) spawnNames(argv []string, files []*os.File, attr *syscall.SysProcAttr) (func() error, func(), error) {
	var fds []uintptr
	for _, f := range files {
		fds = append(fds, f.Fd())
	}
	p, err := m.reaper.Start("/proc/self/exe", argv, &syscall.ProcAttr{Env: []string{}, Files: fds, Sys: attr}, nil)
	if err != nil {
		return nil, nil, err
	}
	wait := func() error {
		<-p.Done()
		if ws := p.Status(); !ws.Exited() || ws.ExitStatus() != 0 {
			return fmt.Errorf("the name keeper ended with status %#x", int(ws))
		}
		return nil
	}
	return wait, func() { m.reaper.Signal(p, unix.SIGKILL) }, nil
}

// accompany stays until the command, its tree and every connection of it are
// over. ended is closed when no task uses the filter any more.
func (m *master) accompany(s *supervisor, ended <-chan struct{}) { m.stay(ended, s.idle, s.close) }

// stay is accompany for any way in: ended is closed when nothing of the tree is
// left, what idle returns is when its last byte is delivered, and end takes down
// what served it.
func (m *master) stay(ended <-chan struct{}, idle func() <-chan struct{}, end func()) {
	select {
	case <-m.command.Done():
	case <-m.frontGone:
		// Whoever ended the front meant the command, which would else be left
		// without anyone to take its exit code.
		m.reaper.Signal(m.command, unix.SIGKILL)
		<-m.command.Done()
	}
	last := Event{Ended: true}
	if ws := m.command.Status(); ws.Signaled() {
		last.Signal = int(ws.Signal())
	} else {
		last.Code = ws.ExitStatus()
	}
	if waitFor(ended, treeEndWait) && waitFor(idle(), drainWait) {
		// The usual end: nothing is left behind when the front returns.
		end()
		m.tellEnd(last)
		return
	}
	m.tellEnd(last)
	// Programs in the background stay supervised. Who waits for the end of
	// stderr waits for them, not for us.
	_ = nullOver(2)
	<-ended
	<-idle()
	end()
}

// tellEnd tells of the command's end. It can have ended while it was stopped, and
// the front is stopped with it.
func (m *master) tellEnd(e Event) {
	m.tell(e)
	m.continueFront()
}
