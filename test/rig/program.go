//go:build linux

package rig

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Program finds an executable that ordinary users can reach too. Without it the
// test is skipped, but fails in CI, which has installed the package pkg.
func Program(tb testing.TB, pkg, name string) string {
	tb.Helper()
	for _, pattern := range []string{"/usr/bin/", "/usr/sbin/", "/bin/", "/usr/local/bin/", "/usr/lib/postgresql/*/bin/"} {
		if found, _ := filepath.Glob(pattern + name); len(found) > 0 {
			return found[len(found)-1]
		}
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	Missing(tb, name+" is missing: apt-get install "+pkg)
	return ""
}

// Missing skips the test for the lack of something that CI has.
func Missing(tb testing.TB, what string) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatal(what)
	}
	tb.Skip(what)
}

// Known is an ordinary account that has an entry in passwd, which some programs
// insist on. Its group has the same number.
func Known(tb testing.TB) uint32 {
	tb.Helper()
	u, err := user.Lookup("www-data")
	if err != nil {
		tb.Skip(err)
	}
	if u.Gid != u.Uid {
		tb.Skip("www-data has another group than on Debian")
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		tb.Fatal(err)
	}
	return uint32(uid)
}

// A Process is a program that goes on.
type Process struct {
	Cmd  *exec.Cmd
	Done chan error // has what Wait returned once it has ended; whoever takes it puts it back
	tb   testing.TB
	by   time.Duration
}

// Start starts cmd, which ends with the test at the latest, and within limit
// of being told to.
func Start(tb testing.TB, cmd *exec.Cmd, limit time.Duration) *Process {
	tb.Helper()
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	p := &Process{Cmd: cmd, Done: make(chan error, 1), tb: tb, by: limit}
	go func() { p.Done <- cmd.Wait() }()
	tb.Cleanup(func() { p.End(unix.SIGTERM) })
	return p
}

// Talk is Start with pipes to and from the program. What it says stays to be read
// when it has ended, as with StdoutPipe it would not.
func Talk(tb testing.TB, cmd *exec.Cmd, limit time.Duration) (in io.WriteCloser, out io.Reader) {
	tb.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { r.Close() })
	cmd.Stdout = w
	defer w.Close()
	Start(tb, cmd, limit)
	return in, r
}

// End sends sig to the program, in a run to drvsock, waits for its end and
// returns the exit code. Later calls return the same.
func (p *Process) End(sig os.Signal) int {
	p.tb.Helper()
	if err := p.Cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.tb.Error(err)
	}
	select {
	case err := <-p.Done:
		p.Done <- err
	case <-time.After(p.by):
		p.tb.Errorf("%q did not end by %v", p.Cmd.Args, sig)
		_ = p.Cmd.Cancel()
		p.Done <- <-p.Done
	}
	return p.Cmd.ProcessState.ExitCode()
}
