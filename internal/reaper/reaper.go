//go:build linux

package reaper

import (
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Reaper waits for every child of this process. There can be only one.
type Reaper struct {
	mu    sync.Mutex
	procs map[int]*Process
	child chan os.Signal
	quit  chan struct{}

	watched  *Process // see Deserted
	deserted chan struct{}
}

// A Process is a child that Start started.
type Process struct {
	PID     int
	changed func(unix.WaitStatus)
	done    chan struct{}
	status  unix.WaitStatus
}

// New makes this process adopt orphans of its descendants (Linux 3.4) and
// begins to wait for children. Close ends the waiting.
func New() (*Reaper, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, os.NewSyscallError("prctl(PR_SET_CHILD_SUBREAPER)", err)
	}
	r := &Reaper{procs: map[int]*Process{}, child: make(chan os.Signal, 1), quit: make(chan struct{})}
	signal.Notify(r.child, unix.SIGCHLD)
	go r.loop()
	return r, nil
}

// Close stops waiting; children that end later stay zombies until this process ends.
func (r *Reaper) Close() {
	signal.Stop(r.child)
	close(r.quit)
}

// Start starts a program as syscall.ForkExec does. changed, if not nil, is
// called from the reaper's goroutine when the child is stopped or continued;
// it must not block.
func (r *Reaper) Start(path string, argv []string, attr *syscall.ProcAttr, changed func(unix.WaitStatus)) (*Process, error) {
	// Held across the fork: the child may end before ForkExec returns, and the
	// loop must then find it.
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return nil, &os.PathError{Op: "start", Path: path, Err: err}
	}
	p := &Process{PID: pid, changed: changed, done: make(chan struct{})}
	r.procs[pid] = p
	return p, nil
}

// Done is closed when the child has ended and was waited for.
func (p *Process) Done() <-chan struct{} { return p.done }

// Status tells how the child ended; it may be called once Done is closed.
func (p *Process) Status() unix.WaitStatus { return p.status }

// Signal sends sig unless the child has been waited for.
func (r *Reaper) Signal(p *Process, sig syscall.Signal) {
	// The lock keeps the pid from being reused: only the loop waits for it.
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.procs[p.PID] == p {
		_ = unix.Kill(p.PID, sig)
	}
}

// SignalGroup sends sig to the process group that the child leads, as one that
// was started with Setpgid does, unless the child has been waited for.
func (r *Reaper) SignalGroup(p *Process, sig syscall.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.procs[p.PID] == p {
		_ = unix.Kill(-p.PID, sig)
	}
}

// Deserted returns a channel that is closed when p has ended and no child is left
// but those that Start started: of what p started nothing runs any more, as
// orphans are our children. It is for one process.
func (r *Reaper) Deserted(p *Process) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watched, r.deserted = p, make(chan struct{})
	c := r.deserted
	r.look()
	return c
}

// look closes deserted if that is due. Called with mu.
func (r *Reaper) look() {
	if r.deserted == nil || r.procs[r.watched.PID] == r.watched {
		return
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range tasks {
		b, err := os.ReadFile("/proc/self/task/" + t.Name() + "/children")
		if err != nil {
			continue // the thread has ended
		}
		for f := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && r.procs[pid] == nil {
				return
			}
		}
	}
	close(r.deserted)
	r.deserted = nil
}

func (r *Reaper) loop() {
	for {
		select {
		case <-r.child:
		case <-r.quit:
			return
		}
		for r.reapOne() {
		}
		r.mu.Lock()
		r.look()
		r.mu.Unlock()
	}
}

// reapOne waits for one change of one child and tells if there was one.
func (r *Reaper) reapOne() bool {
	// The lock is taken first so that Signal never hits a pid that was just
	// waited for and given to another.
	r.mu.Lock()
	var ws unix.WaitStatus
	pid, err := unix.Wait4(-1, &ws, unix.WNOHANG|unix.WUNTRACED|unix.WCONTINUED, nil)
	if err == unix.EINTR {
		r.mu.Unlock()
		return true
	}
	if err != nil || pid <= 0 {
		r.mu.Unlock()
		return false
	}
	p := r.procs[pid]
	ended := ws.Exited() || ws.Signaled()
	if p != nil && ended {
		delete(r.procs, pid)
	}
	r.mu.Unlock()
	switch {
	case p == nil: // an adopted orphan
	case ended:
		p.status = ws
		close(p.done)
	case p.changed != nil:
		p.changed(ws)
	}
	return true
}
