package standin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// askedBy is the environment variable that makes Main serve.
const askedBy = "DRVSOCK_STANDIN"

// Bounds on the serving process: to have mounted, and to have ended.
const (
	startWithin = 20 * time.Second
	stopWithin  = waitUsers + 5*time.Second
)

// An order is what Spawn tells its process.
type order struct {
	Dir, View string
	Options   Options
}

// A child is the process that serves a view. It ends when its standard input
// does, so it cannot outlive this process.
type child struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	stderr bytes.Buffer // to be read after ended only
	ended  chan error
}

// Spawn is Mount with the view served by a process of its own, a copy of this
// executable, so that nothing this process does can keep the view from being
// served. The process ends with Unmount or with the calling process. The program
// must call [Main] first thing.
func Spawn(dir, view string, opts Options) (*FS, error) {
	dir, view, err := folders(dir, view)
	if err != nil {
		return nil, err
	}
	o, err := json.Marshal(order{dir, view, opts})
	if err != nil {
		return nil, fmt.Errorf("options of the stand-in: %w", err)
	}
	c := &child{ended: make(chan error, 1)}
	c.cmd = exec.Command("/proc/self/exe")
	c.cmd.Args[0] = "drvsock-standin"
	c.cmd.Env = append(os.Environ(), askedBy+"="+string(o))
	c.cmd.Stderr = &c.stderr
	c.cmd.WaitDelay = time.Second
	// A terminal's ^C is for the program, which ends its views itself.
	c.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("process of the stand-in: %w", err)
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("process of the stand-in: %w", err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("process of the stand-in: %w", err)
	}
	ready := make(chan bool, 1)
	go func() {
		n, _ := io.ReadFull(stdout, make([]byte, 1))
		ready <- n == 1
		c.ended <- c.cmd.Wait()
	}()
	timer := time.AfterFunc(startWithin, func() { c.cmd.Process.Kill() })
	ok := <-ready
	if !timer.Stop() || !ok {
		err := errors.Join(errors.New("ended before its view was mounted"), c.stop())
		return nil, fmt.Errorf("process of the stand-in: %w", err)
	}
	return &FS{view: view, child: c}, nil
}

// stop ends the process and returns what it died of.
func (c *child) stop() error {
	c.stdin.Close()
	timer := time.AfterFunc(stopWithin, func() { c.cmd.Process.Kill() })
	defer timer.Stop()
	err := <-c.ended
	if err == nil {
		return nil
	}
	if said := strings.TrimSpace(c.stderr.String()); said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return fmt.Errorf("process of the stand-in: %w", err)
}

// becomeServer is Main.
func becomeServer() {
	asked := os.Getenv(askedBy)
	if asked == "" {
		return
	}
	os.Unsetenv(askedBy)
	if err := serve(asked); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(asked string) error {
	var o order
	if err := json.Unmarshal([]byte(asked), &o); err != nil {
		return fmt.Errorf("options of the stand-in: %w", err)
	}
	f, err := Mount(o.Dir, o.View, o.Options)
	if err != nil {
		return err
	}
	if _, err := os.Stdout.Write([]byte{1}); err != nil {
		return errors.Join(err, f.Unmount())
	}
	os.Stdout.Close()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		io.Copy(io.Discard, os.Stdin)
	}()
	select {
	case <-gone:
	case <-f.served: // someone else took the view away
	}
	return f.Unmount()
}
