package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/report"
)

// startWait bounds the start of a daemon.
const startWait = 10 * time.Second

// Readiness is a daemon's first word to whoever started it, as a line of JSON.
type Readiness struct {
	Error string `json:"error,omitempty"` // it does not run
	Hint  string `json:"hint,omitempty"`
	Busy  bool   `json:"busy,omitempty"` // since another one has the lock
}

// Tell writes the word about a start that ended with err, nil for a daemon that
// is ready, and closes w.
func Tell(w io.WriteCloser, err error) {
	r := Readiness{Busy: errors.Is(err, ErrLocked)}
	if err != nil {
		r.Error, r.Hint = err.Error(), report.HintOf(err)
	}
	_ = json.NewEncoder(w).Encode(r) // who started it may be gone, which is fine
	_ = w.Close()
}

// start starts a daemon, or joins another process in waiting for its, and
// connects to it.
func (f *Folder) start(ctx context.Context, args []string) (*net.UnixConn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startWait, fmt.Errorf("no daemon was ready within %v", startWait))
	defer cancel()
	if err := inRun(); err != nil {
		return nil, err
	}
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		r, err := f.spawn(ctx, args)
		switch {
		case err != nil:
			return nil, err
		case r.Error != "" && !r.Busy:
			err := fmt.Errorf("start the daemon: %s", r.Error)
			if r.Hint != "" {
				err = report.Hint(err, "%s", r.Hint)
			}
			return nil, err
		}
		conn, err := f.dial(ctx)
		if !errors.Is(err, ErrNone) {
			return conn, err
		}
		// Another one has the lock and doesn't listen: it begins or ends.
		select {
		case <-ctx.Done():
			return nil, report.Hint(context.Cause(ctx), "see %s", f.Log())
		case <-time.After(pause):
		}
	}
}

// spawn starts this program as a daemon and returns what it says.
func (f *Folder) spawn(ctx context.Context, args []string) (*Readiness, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		_ = w.Close()
		return nil, err
	}
	argv := append([]string{"drvsock", "daemon", "--" + FlagDetach, "--" + FlagReady, "3"}, args...)
	p, err := os.StartProcess("/proc/self/exe", argv, &os.ProcAttr{Env: os.Environ(), Files: []*os.File{null, null, null, w}})
	_, _ = null.Close(), w.Close()
	if err != nil {
		return nil, fmt.Errorf("start the daemon: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var word Readiness
	err = json.NewDecoder(io.LimitReader(r, maxRequest)).Decode(&word)
	if err != nil {
		_ = p.Kill()
	}
	// It only starts another one. In a process that waits for all its children
	// in one place, it may be waited for already.
	_, _ = p.Wait()
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, report.Hint(fmt.Errorf("start the daemon: %w", err), "see %s", f.Log())
	}
	return &word, nil
}

// Detach starts this program as a daemon with args, in a session of its own and
// with nothing that this process inherited but the descriptor ready. The caller
// then ends, so that the daemon is nobody's child who may wait for his children.
func Detach(ready int, args []string) error {
	if err := inheritNone(unix.CloseRange); err != nil {
		return err
	}
	argv := append([]string{"drvsock", "daemon", "--" + FlagReady, "3"}, args...)
	_, err := syscall.ForkExec("/proc/self/exe", argv, &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []uintptr{0, 1, 2, uintptr(ready)},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	return nil
}

// inheritNone keeps all descriptors above stderr from a program that is executed.
func inheritNone(closeRange func(first, last, flags uint) error) error {
	if closeRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC) == nil {
		return nil
	}
	// Before Linux 5.11, and where a container's filter doesn't know it: one by one.
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("descriptors of this process: %w", err)
	}
	for _, e := range list {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// inRun refuses to start a daemon below a supervisor: it would be one of that
// run's programs, and the run would not end before it.
func inRun() error {
	for pid := os.Getppid(); pid > 1; {
		dir := "/proc/" + strconv.Itoa(pid)
		b, err := os.ReadFile(dir + "/cmdline")
		if err != nil {
			return nil // it has just ended
		}
		if isSupervisor(b) {
			return report.Hint(errors.New("a daemon can't be started from within drvsock run"), "start it elsewhere: drvsock up")
		}
		pid = parent(dir)
	}
	return nil
}
