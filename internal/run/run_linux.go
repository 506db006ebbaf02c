package run

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/control"
	"drvsock/internal/report"
	"drvsock/internal/supervise"
	"drvsock/internal/transport"
)

func command(o Options) (int, error) {
	path, err := exec.LookPath(o.Argv[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			return ExitNotFound, fmt.Errorf("%s: command not found", o.Argv[0])
		}
		return ExitNotRunnable, fmt.Errorf("%s: %w", o.Argv[0], errors.Unwrap(err))
	}
	cfg := supervise.Config{Link: o.Plan.Argv, DrivesOnly: o.Plan.Only, By: o.By, Verbose: o.Verbose, Path: supervise.Text(path), Argv: o.Argv}
	for _, v := range o.Plan.Views {
		cfg.Drives = append(cfg.Drives, supervise.DriveView{Letter: v.Letter, View: supervise.Text(v.View)})
	}
	switch {
	case len(cfg.Link) > 0:
	case o.NoDaemon:
		cfg.Link, err = transport.FindAgent(context.Background())
	default:
		err = borrow(&cfg, o.Agent)
	}
	if err != nil {
		return ExitFailure, err
	}
	f, err := startSupervisor(cfg)
	if err != nil {
		return ExitFailure, err
	}
	return f.follow()
}

// borrow asks the daemon for its link and its drives. It starts one if need be,
// before this process is one to which orphans fall: the daemon outlives the run.
func borrow(cfg *supervise.Config, agent string) error {
	ctx := context.Background()
	c, err := control.Dial(ctx, control.Options{Start: true, Args: []string{"--" + control.FlagOnDemand}})
	if err != nil {
		return err
	}
	defer c.Close()
	exe, _ := exec.LookPath("drvsock.exe") // or the daemon finds it, or says that nobody does
	r, err := c.Do(ctx, control.Request{Op: control.OpViews, Name: agent, Exe: exe})
	if err != nil {
		return err
	}
	cfg.Session = &supervise.Session{Agent: agent, Identity: r.Identity}
	cfg.DrivesOnly = r.Only
	if len(cfg.Drives) == 0 {
		for _, v := range r.Views {
			if len(v.Letter) == 1 {
				cfg.Drives = append(cfg.Drives, supervise.DriveView{Letter: v.Letter[0], View: supervise.Text(v.View)})
			}
		}
	}
	return nil
}

// front is the state of this process while the command runs.
type front struct {
	supervisor int // pid
	control    *os.File
	events     chan supervise.Event // closed when the supervisor is gone
	signals    chan os.Signal
	ready      bool             // the command runs soon, if it doesn't yet
	child      int              // pid of the command, 0 until it runs
	waiting    []syscall.Signal // for the child
}

func startSupervisor(cfg supervise.Config) (*front, error) {
	// Should the supervisor be killed, its tree becomes ours to end.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, os.NewSyscallError("prctl(PR_SET_CHILD_SUBREAPER)", err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	control := os.NewFile(uintptr(pair[0]), "supervisor")
	f := &front{control: control, events: make(chan supervise.Event, 16), signals: make(chan os.Signal, 16)}
	// The descriptors that the user's shell gave to the command (`5<file`) pass
	// through every process on the way by plain inheritance, so ours must too,
	// under whatever number it has.
	syscall.ForkLock.Lock()
	_, err = unix.FcntlInt(uintptr(pair[1]), unix.F_SETFD, 0)
	syscall.ForkLock.Unlock()
	if err == nil {
		f.supervisor, err = syscall.ForkExec("/proc/self/exe",
			[]string{"drvsock", supervise.Word, strconv.Itoa(pair[1])},
			&syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	}
	_ = unix.Close(pair[1])
	if err != nil {
		_ = control.Close()
		return nil, fmt.Errorf("start the supervisor: %w", err)
	}
	// What the terminal sends reaches the command by itself, which decides; this
	// process only must not end or stop before it.
	signal.Notify(f.signals, supervise.Heeded(unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP,
		unix.SIGUSR1, unix.SIGUSR2, unix.SIGTSTP, unix.SIGCONT)...)
	if err := json.NewEncoder(control).Encode(cfg); err != nil {
		return nil, fmt.Errorf("instruct the supervisor: %w", err)
	}
	dropInherited()
	go f.read()
	return f, nil
}

// dropInherited lets go of what the shell opened for the command: a reader at
// the other end must see its end when the command closes it, not later. Only
// stderr stays, for messages.
func dropInherited() {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err == nil {
		_ = unix.Dup3(int(null.Fd()), 0, 0)
		_ = unix.Dup3(int(null.Fd()), 1, 0)
		_ = null.Close()
	}
	for _, fd := range supervise.Inherited() {
		_ = unix.Close(fd)
	}
}

func (f *front) read() {
	defer close(f.events)
	dec := json.NewDecoder(f.control)
	for {
		var e supervise.Event
		if dec.Decode(&e) != nil {
			return
		}
		f.events <- e
	}
}

// follow lives through the command's life and returns its exit code.
func (f *front) follow() (int, error) {
	for {
		select {
		case e, ok := <-f.events:
			if !ok {
				f.endTree()
				return ExitFailure, errors.New("the supervisor ended, and the command was ended with it")
			}
			switch {
			case e.Error != "":
				err := errors.New(e.Error)
				if e.Hint != "" {
					err = report.Hint(err, "%s", e.Hint)
				}
				return e.Code, err
			case e.Ready:
				f.ready = true
				_, _ = f.control.Write([]byte("{}\n")) // a supervisor that is gone shows above
			case e.PID != 0:
				f.child = e.PID
				for _, s := range f.waiting {
					f.forward(s)
				}
			case e.Stopped:
				// The job's process group is the command's; the shell sees it stop
				// when this process does. SIGSTOP can't be caught, and the shell
				// continues us both. The news may be old: if the command goes on
				// already, nobody would.
				if isStopped(f.child) {
					f.heed()
				}
				if isStopped(f.child) {
					_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
				}
			case e.Ended:
				return f.ended(e), nil
			}
		case s := <-f.signals:
			switch {
			case f.child != 0:
				f.forward(s.(syscall.Signal))
			case f.ready:
				f.waiting = append(f.waiting, s.(syscall.Signal))
			case s == unix.SIGTSTP:
				// No event tells of a stop yet, and what is in our process group
				// has stopped.
				_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
			case s != unix.SIGCONT:
				return f.giveUp(s.(syscall.Signal)), nil
			}
		}
	}
}

// heed forwards what was signalled before now. The signal by which the terminal
// stopped the whole job may still be on its way through the runtime; found after
// the job was continued in the background, it would look as one for this process
// alone, and stop the command again.
func (f *front) heed() {
	// Pending signals come in the order of their numbers, and this one after those
	// that are waited for. Without a reader it does nothing.
	const last = unix.SIGWINCH
	mark := make(chan os.Signal, 1)
	signal.Notify(mark, last)
	defer signal.Stop(mark)
	_ = unix.Kill(os.Getpid(), last)
	select {
	case <-mark:
	case <-time.After(time.Second):
	}
	for {
		select {
		case s := <-f.signals:
			f.forward(s.(syscall.Signal))
		default:
			return
		}
	}
}

// isStopped reads the state in proc_pid_stat(5), behind the name in parentheses.
func isStopped(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	i := bytes.LastIndexByte(b, ')')
	return i >= 0 && bytes.HasPrefix(b[i:], []byte(") T"))
}

func (f *front) ended(e supervise.Event) int {
	if e.Signal == 0 {
		return e.Code
	}
	return died(syscall.Signal(e.Signal))
}

// died is the end for a signal that ended the command.
func died(s syscall.Signal) int {
	if s == unix.SIGINT {
		// A shell running a script goes on with it unless the job died of the
		// very signal that Ctrl-C sent.
		signal.Reset(unix.SIGINT)
		_ = unix.Kill(os.Getpid(), unix.SIGINT)
		time.Sleep(100 * time.Millisecond)
	}
	return ExitSignal + int(s)
}

// giveUp ends what there is before the command runs: the link may take long, or
// ask for a password, and nobody else has the signal.
func (f *front) giveUp(s syscall.Signal) int {
	_ = unix.Kill(f.supervisor, unix.SIGKILL)
	f.endTree()
	return died(s)
}

// forward passes a signal on to the running command that was sent to this
// process alone.
func (f *front) forward(s syscall.Signal) {
	switch s {
	case unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP:
		if inForeground() {
			return // from the terminal: the command has it already
		}
	case unix.SIGHUP:
		if _, err := terminal(); err == nil {
			return // a hang-up reaches the whole job
		}
	}
	_ = unix.Kill(f.child, s)
}

func terminal() (*os.File, error) { return os.OpenFile("/dev/tty", os.O_RDWR, 0) }

// inForeground tells if our process group gets what is typed at the terminal.
func inForeground() bool {
	tty, err := terminal()
	if err != nil {
		return false
	}
	defer tty.Close()
	pgrp, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && pgrp == unix.Getpgrp()
}

// agentGrace is how long an agent has to end by itself when its supervisor is
// gone. It sees that at once, by the end of its stdin, and removes its sockets.
const agentGrace = 2 * time.Second

// endTree kills what the supervisor left. Its orphans are now our children, and
// theirs become ours as they die, so a few rounds reach everything.
func (f *front) endTree() {
	start, own := time.Now(), filters(os.Getpid())
	for time.Since(start) < 5*time.Second {
		left := 0
		for _, pid := range ownChildren() {
			// The command's tree has one filter more than we have, or other mounts, the
			// agent neither. Nor has a daemon that was started for another link; it is
			// everybody's.
			more := filters(pid) > own || mounts(pid) != mounts(os.Getpid())
			if !more && isDaemon(pid) {
				continue
			}
			left++
			if more || time.Since(start) > agentGrace {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		if left == 0 {
			return
		}
		for {
			var ws unix.WaitStatus
			pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
			if err == unix.ECHILD {
				return
			}
			if err == unix.EINTR {
				continue
			}
			if err != nil || pid == 0 {
				break
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// isDaemon recognises the command line of a daemon.
func isDaemon(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	args := bytes.Split(b, []byte{0})
	return err == nil && len(args) > 1 && string(args[0]) == "drvsock" && string(args[1]) == "daemon"
}

// filters counts the seccomp filters of a process (proc_pid_status(5), since
// Linux 5.9), 0 if that isn't told.
func filters(pid int) int {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(b, []byte("\nSeccomp_filters:"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	n, _ := strconv.Atoi(string(bytes.TrimSpace(line)))
	return n
}

// mounts names the mount namespace of a process, "" if that isn't told.
func mounts(pid int) string {
	s, _ := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/mnt")
	return s
}

// ownChildren lists the children of all our threads (proc_pid_children(5)).
func ownChildren() []int {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil
	}
	var pids []int
	for _, t := range tasks {
		file, err := os.Open("/proc/self/task/" + t.Name() + "/children")
		if err != nil {
			continue
		}
		for {
			var pid int
			if _, err := fmt.Fscan(io.Reader(file), &pid); err != nil {
				break
			}
			pids = append(pids, pid)
		}
		_ = file.Close()
	}
	return pids
}
