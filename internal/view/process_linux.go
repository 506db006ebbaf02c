package view

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/mount"
	"drvsock/internal/report"
)

const (
	// startWait bounds what it takes a view to be there: a dead one in its place
	// is looked at for five seconds, and a folder that hangs for ever.
	startWait = 20 * time.Second
	// endWait bounds what it takes to be gone, programs that use it included.
	endWait = 8 * time.Second
)

// A Process serves a view until End, until somebody unmounts it, or until it dies.
type Process struct {
	PID           int
	Dir, HostPath string

	log     *slog.Logger
	cmd     *exec.Cmd
	control *os.File
	reports chan Report // closed when it will tell no more
	gone    chan struct{}
	done    chan struct{}
}

// Start starts a process that serves what o says, and waits until the view is
// there. The error carries a hint where there is one. The caller calls End.
func Start(ctx context.Context, o Order, log *slog.Logger) (*Process, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startWait, fmt.Errorf("%s was not mounted within %v", o.Mount.Dir, startWait))
	defer cancel()
	p, err := spawn(o, log)
	if err != nil {
		return nil, fmt.Errorf("start the process of a view: %w", err)
	}
	select {
	case r, ok := <-p.reports:
		switch {
		case ok && r.Mounted:
			p.Dir, p.HostPath = r.Dir, r.HostPath
			return p, nil
		case ok && r.Error != "":
			err = errors.New(r.Error)
			if r.Hint != "" {
				err = report.Hint(err, "%s", r.Hint)
			}
		default:
			err = errors.New("the process of the view ended before it was there")
		}
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	p.Dir = o.Mount.Dir
	p.End()
	return nil, err
}

func spawn(o Order, log *slog.Logger) (*Process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "view")
	defer theirs.Close()
	p := &Process{log: log, control: os.NewFile(uintptr(pair[0]), "view"), reports: make(chan Report, 1), gone: make(chan struct{}), done: make(chan struct{})}
	p.cmd = exec.Command("/proc/self/exe", Word, strconv.Itoa(3))
	p.cmd.Args[0] = "drvsock"
	p.cmd.Dir = "/"
	p.cmd.ExtraFiles = []*os.File{theirs}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	words, err := p.cmd.StderrPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err == nil {
		err = json.NewEncoder(p.control).Encode(o)
	}
	if err != nil {
		_ = p.control.Close()
		if p.cmd.Process != nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
		return nil, err
	}
	p.PID = p.cmd.Process.Pid
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		p.read()
	}()
	go p.listen(words, heard)
	return p, nil
}

func (p *Process) read() {
	defer close(p.reports)
	dec := json.NewDecoder(p.control)
	for {
		var r Report
		if dec.Decode(&r) != nil {
			return
		}
		if r.Gone {
			close(p.gone) // it is said once
			return
		}
		select {
		case p.reports <- r:
		default: // there is one only
		}
	}
}

// listen logs what the process says, and waits for its end.
func (p *Process) listen(words io.Reader, heard <-chan struct{}) {
	br := bufio.NewReaderSize(words, 4096)
	for {
		b, _, err := br.ReadLine()
		if err != nil {
			break
		}
		if len(b) > 0 {
			p.log.Info("view says", "line", string(b))
		}
	}
	if err := p.cmd.Wait(); err != nil {
		p.log.Debug("process of a view", "err", err)
	}
	<-heard
	close(p.done)
	runtime.KeepAlive(p.control) // whose end would be the view's
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Gone is closed when somebody has unmounted the view. The process may serve it a
// while longer, and ends by itself; End is not to be called then.
func (p *Process) Gone() <-chan struct{} { return p.gone }

// End takes the view away and returns when the process has ended. If that doesn't
// come about by itself within eight seconds, it is killed, and the view, dead
// then, is taken away from here.
func (p *Process) End() {
	_ = unix.Shutdown(int(p.control.Fd()), unix.SHUT_RDWR)
	if !p.wait(endWait) {
		p.log.Warn("the process of a view is killed", "pid", p.PID, "dir", p.Dir)
		_ = p.cmd.Process.Kill()
		// One in an uninterruptible wait for a folder that hangs ends when that does.
		if !p.wait(endWait) {
			p.log.Error("the process of a view doesn't end", "pid", p.PID, "dir", p.Dir)
			return
		}
	}
	_ = p.control.Close()
	if err := mount.Repair(p.Dir, p.log); err != nil {
		p.log.Warn("taking a dead view away", "dir", p.Dir, "err", err)
	}
}

func (p *Process) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.done:
		return true
	case <-t.C:
		return false
	}
}
