package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// movedVar is set in the environment of a demo that was moved already.
const movedVar = "DRVSOCK_DEMO_MOVED"

// reportFD is where the moved demo writes its report.
const reportFD = 3

// elsewhere plays the demo in a user namespace of its own, where an ordinary
// user may mount a FUSE file system (Linux 4.18, user_namespaces(7)). Where that
// isn't allowed either, the demo is played here without a view of its own.
func elsewhere(ctx context.Context, o Options) (*Report, error) {
	if r, err := moved(ctx, o); err == nil || ctx.Err() != nil {
		return r, err
	}
	if err := os.Setenv(movedVar, "no"); err != nil {
		return nil, err
	}
	defer os.Unsetenv(movedVar)
	return run(ctx, o)
}

func moved(ctx context.Context, o Options) (*Report, error) {
	program := o.Program
	if program == "" {
		program = "/proc/self/exe"
	}
	out := o.Out
	o.Out = nil
	order, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.CommandContext(ctx, program, Word, "play", string(order))
	cmd.Args[0] = "drvsock"
	cmd.Env = append(os.Environ(), movedVar+"=yes")
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:     true,
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	// It takes down what it set up, and each of its waits has a bound.
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return nil, fmt.Errorf("demo in a user namespace: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err = errors.Join(err, cmd.Wait()); err != nil {
		return nil, fmt.Errorf("demo in a user namespace: %w", err)
	}
	rep := new(Report)
	if err := json.Unmarshal(b, rep); err != nil {
		return nil, fmt.Errorf("demo in a user namespace: %w", err)
	}
	return rep, nil
}

// playMoved is the other end of moved.
func playMoved(args []string) error {
	if len(args) != 1 {
		return errors.New("play: options are missing")
	}
	var o Options
	if err := json.Unmarshal([]byte(args[0]), &o); err != nil {
		return err
	}
	o.Out = os.Stdout
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	unix.CloseOnExec(reportFD)
	r, err := Run(ctx, o)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.NewFile(reportFD, "report")).Encode(r)
}
