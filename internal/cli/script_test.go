package cli_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"drvsock/internal/cli"
	"drvsock/internal/demo"
	"drvsock/internal/names"
	"drvsock/internal/shim"
	"drvsock/internal/standin"
	"drvsock/internal/supervise"
	"drvsock/internal/view"
)

// scriptsWithin bounds all scripts together, so that a hang shows as one.
const scriptsWithin = 5 * time.Minute

func TestMain(m *testing.M) {
	standin.Main()
	part()
	testscript.Main(m, map[string]func(){"drvsock": func() {
		os.Exit(cli.Main(os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
	}})
}

// part is what cmd/drvsock does before it looks at the command line: it may be
// one of the processes that it starts of itself, under any name.
func part() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case supervise.Word:
			os.Exit(supervise.Main(os.Args[2:]))
		case shim.Word:
			os.Exit(shim.Main(os.Args[2:]))
		case names.Command:
			os.Exit(names.Main())
		case view.Word:
			os.Exit(view.Main(os.Args[2:]))
		case demo.Word:
			os.Exit(demo.Main(os.Args[2:]))
		}
	}
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		Deadline:            time.Now().Add(scriptsWithin),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			// Else each process of a run under -race takes a second to end.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			// The script's own is for this account alone, and some commands have
			// parts under others.
			tmp, err := os.MkdirTemp("", "scripts")
			if err != nil {
				return err
			}
			env.Defer(func() {
				if err := os.Remove(tmp); err != nil { // whatever made a file removes it
					t.Error(err)
				}
			})
			env.Setenv("TMPDIR", tmp)
			if err := os.Chmod(tmp, 0o755); err != nil {
				return err
			}
			return ownDaemon(t, env)
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "fuse":
				return canMount(), nil
			case "root":
				return os.Geteuid() == 0, nil
			}
			return false, errors.New("unknown condition " + cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": code,
		},
	})
}

// canMount tells whether this account can mount a FUSE file system.
func canMount() bool {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	_ = f.Close()
	_, err = exec.LookPath("fusermount3")
	return err == nil || os.Geteuid() == 0
}

// ownDaemon gives a script a daemon of its own, if it starts one, and wants it
// ended when the script is done.
func ownDaemon(t *testing.T, env *testscript.Env) error {
	env.Setenv("XDG_RUNTIME_DIR", filepath.Join(env.WorkDir, ".run"))
	env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, ".config"))
	env.Setenv("HOME", env.WorkDir)
	if err := os.Mkdir(env.Getenv("XDG_RUNTIME_DIR"), 0o700); err != nil {
		return err
	}
	env.Defer(func() {
		cmd := func(words ...string) *exec.Cmd {
			c := exec.Command("/proc/self/exe", words...)
			c.Args[0], c.Env = "drvsock", env.Vars
			return c
		}
		if cmd("status").Run() == nil {
			t.Errorf("%s: a daemon is left", env.WorkDir)
			_ = cmd("down").Run()
		}
		if view := filepath.Join(env.WorkDir, "view"); cmd("umount", view).Run() == nil {
			t.Errorf("%s: a mount is left", view)
		}
	})
	return nil
}

// code is "code N CMD ARG…": exec, for a command that must exit with N.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N CMD ARG…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got, exit := 0, (*exec.ExitError)(nil)
	switch err := ts.Exec(args[1], args[2:]...); {
	case errors.As(err, &exit):
		got = exit.ExitCode() // -1 for a signal
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}
