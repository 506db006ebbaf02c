//go:build linux

package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/standin"
)

// Accounts that no machine has an entry for in its passwd.
const (
	User  = 44001 // who runs programs
	Other = 44002 // another one
)

// Options choose what a Rig looks like. The zero value is the caller's own
// account on both sides and a drive as WSL 2 shows it.
type Options struct {
	Agent   uint32              // account of the agent and of the host's programs, 0: the caller's
	Program uint32              // account of the programs of the guest, 0: the caller's
	Groups  []uint32            // supplementary groups of the programs of the guest
	Plain   bool                // no view: the guest sees the host's folder itself, in which sockets work anyway
	View    standin.Options     // how the view shows files
	Mode    os.FileMode         // of the host's folder, 0: 0777
	Flags   []string            // more flags of drvsock run
	Link    func(string) string // makes another --link of the agent's command line
}

// A Rig is a host's drive C, its view and the ways to start programs on both
// sides of it.
type Rig struct {
	Host string // folder that is C:\ on the host
	View string // where the guest sees it
	Bin  string // the drvsock program, under a name of this rig only
	dir  string
	opts Options
	tb   testing.TB
}

// New makes a rig that lasts as long as the test. It skips the test if the
// machine can't have it: no FUSE, or no root for another account.
func New(tb testing.TB, o Options) *Rig {
	tb.Helper()
	if os.Geteuid() != 0 && (o.Agent != 0 || o.Program != 0 || len(o.Groups) > 0) {
		tb.Skip("needs root for other accounts")
	}
	r := &Rig{dir: Dir(tb), opts: o, tb: tb}
	r.Host, r.View, r.Bin = filepath.Join(r.dir, "host"), filepath.Join(r.dir, "view"), filepath.Join(r.dir, "drvsock")
	if err := os.Link(Binary(tb), r.Bin); err != nil {
		tb.Fatal(err)
	}
	mode := o.Mode
	if mode == 0 {
		mode = 0o777
	}
	for _, err := range []error{os.Mkdir(r.Host, 0o700), os.Chmod(r.Host, mode), os.Chown(r.Host, own(o.Agent), own(o.Agent))} {
		if err != nil {
			tb.Fatal(err)
		}
	}
	tb.Cleanup(r.noneLeft)
	if o.Plain {
		r.View = r.Host
		return r
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		tb.Skip(err)
	}
	if err := os.Mkdir(r.View, 0o755); err != nil {
		tb.Fatal(err)
	}
	fs, err := standin.Spawn(r.Host, r.View, o.View)
	if err != nil {
		tb.Skip(err)
	}
	tb.Cleanup(func() {
		if err := fs.Unmount(); err != nil {
			tb.Error(err)
		}
	})
	return r
}

// own is uid for chown, which leaves files alone for 0: they are the caller's.
func own(uid uint32) int {
	if uid == 0 {
		return -1
	}
	return int(uid)
}

// Temp is the folder for temporary ones, if every account may search it and its
// name leaves room for a socket's, and otherwise the machine's.
func Temp() string {
	const machine, room = "/tmp", 16
	dir := os.TempDir()
	if !filepath.IsAbs(dir) || len(dir) > room {
		return machine
	}
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		if st, err := os.Stat(d); err != nil || st.Mode().Perm()&0o001 == 0 {
			return machine
		}
		if d == "/" {
			return dir
		}
	}
}

// Dir makes a folder that every account may search, with a short name since a
// socket's has little room. It lasts as long as the test.
func Dir(tb testing.TB) string {
	tb.Helper()
	// All of one length, so that addresses in different rigs are.
	dir := filepath.Join(Temp(), fmt.Sprintf("rig%08d", rand.IntN(1e8)))
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// Agent is the command line of an agent for this rig's host, under its account.
// It is for a shell.
func (r *Rig) Agent() string {
	cmd := fmt.Sprintf("%s agent --drive C=%s", r.Bin, r.Host)
	switch r.opts.Agent {
	case 0, r.opts.Program:
		return cmd
	}
	if r.opts.Program == 0 {
		id := strconv.Itoa(int(r.opts.Agent))
		return "setpriv --reuid " + id + " --regid " + id + " --clear-groups " + cmd
	}
	return r.become() + " " + cmd
}

// RunArgs is the command line of argv in drvsock run.
func (r *Rig) RunArgs(argv ...string) []string {
	link := r.Agent()
	if r.opts.Link != nil {
		link = r.opts.Link(link)
	}
	if os.Getenv("DRVSOCK_VERBOSE") != "" {
		link += " -v"
	}
	args := append([]string{r.Bin, "run", "--link", link, "--drive", "C=" + r.View}, r.opts.Flags...)
	if os.Getenv("DRVSOCK_VERBOSE") != "" {
		args = append(args, "-v")
	}
	return append(append(args, "--"), argv...)
}

// Run is argv in drvsock run, in the view, under the program's account. The
// command, like those of the other methods, is killed when the test ends, leads
// a process group of its own and has the test's log as its stderr.
func (r *Rig) Run(argv ...string) *exec.Cmd {
	return r.command(r.opts.Program, r.opts.Groups, r.View, r.RunArgs(argv...))
}

// InView is argv in the view under the program's account, without drvsock.
func (r *Rig) InView(argv ...string) *exec.Cmd {
	return r.command(r.opts.Program, r.opts.Groups, r.View, argv)
}

// OnHost is argv in the host's folder under the agent's account.
func (r *Rig) OnHost(argv ...string) *exec.Cmd {
	return r.command(r.opts.Agent, nil, r.Host, argv)
}

// As is argv in the folder dir under the account uid, 0: the caller's.
func (r *Rig) As(uid uint32, dir string, argv ...string) *exec.Cmd {
	return r.command(uid, nil, dir, argv)
}

// marker is an environment variable by which a rig knows its processes.
const marker = "DRVSOCK_RIG"

func (r *Rig) command(uid uint32, groups []uint32, dir string, argv []string) *exec.Cmd {
	ctx := r.tb.Context()
	if ctx.Err() != nil {
		ctx = context.WithoutCancel(ctx) // the test is over, and this is part of its end
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), marker+"="+r.dir, "HOME="+r.dir)
	cmd.Stderr = &logged{tb: r.tb, prefix: filepath.Base(argv[len(argv)-1]) + ": "}
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if uid != 0 || len(groups) > 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid, Groups: groups}
	}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	return cmd
}

// Output runs cmd within limit and returns its stdout and exit code.
func Output(tb testing.TB, cmd *exec.Cmd, limit time.Duration) (string, int) {
	tb.Helper()
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		tb.Fatalf("%q: %v", cmd.Args, err)
	}
	timer := time.AfterFunc(limit, func() { _ = cmd.Cancel() })
	err := cmd.Wait()
	if !timer.Stop() {
		tb.Errorf("%q did not end in %v", cmd.Args, limit)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		tb.Fatalf("%q: %v", cmd.Args, err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// Processes lists the processes that belong to this rig.
func (r *Rig) Processes() []int {
	all, _ := filepath.Glob("/proc/[0-9]*")
	var pids []int
	for _, p := range all {
		exe, _ := os.Readlink(p + "/exe")
		env, _ := os.ReadFile(p + "/environ")
		if strings.TrimSuffix(exe, " (deleted)") != r.Bin && !strings.Contains("\x00"+string(env), "\x00"+marker+"="+r.dir+"\x00") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(p)); err == nil && alive(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// alive tells a process from a zombie.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, ok := strings.Cut(string(b), ") ")
	return err == nil && ok && !strings.HasPrefix(rest, "Z")
}

// Parts lists the rig's processes by what they are of drvsock: "front",
// "supervisor", "names", "agent".
func (r *Rig) Parts() map[string][]int {
	parts := map[string][]int{}
	for _, pid := range r.Processes() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		args := strings.Split(string(b), "\x00")
		if err != nil || len(args) < 2 || exe != r.Bin {
			continue
		}
		word := args[1]
		switch word {
		case "run":
			word = "front"
		case "drvsock:supervise":
			word = "supervisor"
		case "__names":
			word = "names"
		}
		parts[word] = append(parts[word], pid)
	}
	return parts
}

// WaitGone waits for every process of the rig to end, and tells which did not.
func (r *Rig) WaitGone(limit time.Duration) []int { return r.WaitGoneBut(limit, 0) }

// WaitGoneBut is WaitGone with one process that may stay.
func (r *Rig) WaitGoneBut(limit time.Duration, pid int) []int {
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		left := slices.DeleteFunc(r.Processes(), func(p int) bool { return p == pid })
		if len(left) == 0 || time.Now().After(end) {
			return left
		}
	}
}

// noneLeft is the end of every rig.
func (r *Rig) noneLeft() {
	for _, pid := range r.WaitGone(5 * time.Second) {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		r.tb.Errorf("process %d is left behind: %q", pid, strings.Split(string(b), "\x00"))
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	r.WaitGone(2 * time.Second)
}

// logged passes what a program says on stderr to the test's log.
type logged struct {
	tb     testing.TB
	prefix string
}

func (l *logged) Write(b []byte) (int, error) {
	if l.tb.Context().Err() == nil {
		l.tb.Log(l.prefix + strings.TrimSpace(string(b)))
	}
	return len(b), nil
}
