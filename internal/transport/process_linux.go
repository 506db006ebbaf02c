package transport

import (
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"drvsock/internal/reaper"
)

// A Starter starts processes and waits for their end.
type Starter interface {
	// Start starts a program that leads a process group of its own.
	Start(path string, argv []string, attr *syscall.ProcAttr) (Process, error)
}

// A Process is a program that a Starter started.
type Process interface {
	PID() int
	Done() <-chan struct{} // closed when it has ended and was waited for
	Kill()                 // ends it and its process group
}

// Reaped starts children of r's process, for one that waits for all children in
// one place.
func Reaped(r *reaper.Reaper) Starter { return reaped{r} }

type reaped struct{ r *reaper.Reaper }

func (s reaped) Start(path string, argv []string, attr *syscall.ProcAttr) (Process, error) {
	p, err := s.r.Start(path, argv, attr, nil)
	if err != nil {
		return nil, err
	}
	return reapedProcess{s.r, p}, nil
}

type reapedProcess struct {
	r *reaper.Reaper
	p *reaper.Process
}

func (p reapedProcess) PID() int              { return p.p.PID }
func (p reapedProcess) Done() <-chan struct{} { return p.p.Done() }
func (p reapedProcess) Kill()                 { p.r.SignalGroup(p.p, unix.SIGKILL) }

// Children starts children and waits for these alone, for a process whose other
// parts have children of their own.
func Children() Starter { return children{} }

type children struct{}

// Start has a shell become the program. The program may lie on a file system that
// this very process serves, as the host's drvsock.exe on a drive that is mounted
// does; and between fork and exec a process of Go can't serve: the thread that
// forks keeps a processor, and a collection of garbage waits for that.
func (children) Start(path string, argv []string, attr *syscall.ProcAttr) (Process, error) {
	err := unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS)
	pid := 0
	if err == nil {
		through := append([]string{"sh", "-c", `exec "$0" "$@"`, path}, argv[1:]...)
		pid, err = syscall.ForkExec("/bin/sh", through, attr)
	}
	if err != nil {
		return nil, &os.PathError{Op: "start", Path: path, Err: err}
	}
	c := &child{pid: pid, done: make(chan struct{})}
	go c.wait()
	return c, nil
}

type child struct {
	pid  int
	done chan struct{}

	mu   sync.Mutex
	gone bool // waited for, so that the number may be another's
}

func (c *child) PID() int              { return c.pid }
func (c *child) Done() <-chan struct{} { return c.done }

func (c *child) Kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.gone {
		_ = unix.Kill(-c.pid, unix.SIGKILL)
	}
}

func (c *child) wait() {
	defer close(c.done)
	for unix.Waitid(unix.P_PID, c.pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	// Its end is known, so the lock is held for a moment only.
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	for {
		if _, err := unix.Wait4(c.pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}
