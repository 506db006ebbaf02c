//go:build linux

package contract

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// TestExitCodes compares what a command and its shell see of each other.
func TestExitCodes(t *testing.T) {
	for _, acc := range ways {
		r := rig.New(t, acc.options())
		for _, row := range []struct {
			name string
			argv []string
			want int
		}{
			{"own", []string{"sh", "-c", "exit 7"}, 7},
			{"zero", []string{"true"}, 0},
			{"own 255", []string{"sh", "-c", "exit 255"}, 255},
			{"not found", []string{"no-such-command"}, 127},
			{"not found by path", []string{"./no-such-command"}, 127},
			{"not runnable", []string{"/dev/null"}, 126},
			{"folder", []string{"/"}, 126},
			{"killed", []string{"sh", "-c", "kill -KILL $$"}, 128 + 9},
			{"terminated", []string{"sh", "-c", "kill -TERM $$"}, 128 + 15},
			{"aborted", []string{"sh", "-c", "kill -ABRT $$"}, 128 + 6},
		} {
			t.Run(acc.name+"/"+row.name, func(t *testing.T) {
				if _, got := rig.Output(t, r.Run(row.argv...), limit); got != row.want {
					t.Errorf("exit code %d, want %d", got, row.want)
				}
			})
		}
		t.Run(acc.name+"/no agent", func(t *testing.T) {
			cmd := r.InView(r.Bin, "run", "--link", "false", "--drive", "C="+r.View, "--", "true")
			if _, got := rig.Output(t, cmd, limit); got != 125 {
				t.Errorf("exit code %d, want 125", got)
			}
		})
		// Of what a command finds at its start, everything is as without us.
		t.Run(acc.name+"/surroundings", func(t *testing.T) {
			script := `cat; cat <&5; ls /proc/self/fd | grep -v 3 | tr '\n' ' '; umask; ulimit -n; pwd; nice; ` +
				`grep -E '^(SigBlk|SigIgn|Groups|Seccomp_filters|Uid|Cap[PE])' /proc/self/status | grep -v Seccomp; echo "$0 $1 $FOO"; id -u; id -G`
			argv := []string{"sh", "-c", script, "zero", "one  two \xff\"<\u2028"} // arguments are bytes
			var outs []string
			for _, cmd := range []*exec.Cmd{r.InView(argv...), r.Run(argv...)} {
				null, err := os.Open("/etc/hostname")
				if err != nil {
					t.Skip(err)
				}
				cmd.ExtraFiles = []*os.File{nil, nil, null} // as 5
				cmd.Stdin = strings.NewReader("from stdin\n")
				cmd.Env = append(cmd.Env, "FOO=bar=baz")
				out, _ := rig.Output(t, cmd, limit)
				null.Close()
				outs = append(outs, out)
			}
			if outs[0] != outs[1] {
				t.Errorf("natively\n%s\nin run\n%s", outs[0], outs[1])
			}
		})
	}
}

// TestSignals sends the front what a shell's kill would.
func TestSignals(t *testing.T) {
	r := newRig(t, 0)
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGQUIT} {
		for _, caught := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s caught=%v", unix.SignalName(sig), caught), func(t *testing.T) {
				script := "echo ready; while :; do sleep 0.05; done"
				want := 128 + int(sig)
				if caught {
					script = fmt.Sprintf("trap 'echo got; exit 7' %d; ", sig) + script
					want = 7
				}
				shell := "bash"
				if !caught {
					shell = "sh" // bash(1) ignores SIGQUIT
				}
				cmd := r.Run(shell, "-c", script)
				out, err := cmd.StdoutPipe()
				if err == nil {
					err = cmd.Start()
				}
				if err != nil {
					t.Fatal(err)
				}
				b := make([]byte, 6)
				if _, err := io.ReadFull(out, b); err != nil {
					t.Fatal(err)
				}
				late := time.AfterFunc(limit, func() { t.Error("goes on"); _ = cmd.Cancel() })
				defer late.Stop()
				if err := cmd.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
				rest, _ := io.ReadAll(out)
				_ = cmd.Wait()
				got := cmd.ProcessState.ExitCode()
				if ws := cmd.ProcessState.Sys().(interface{ Signaled() bool }); ws.Signaled() {
					got = 128 + int(sig) // a front that dies of the signal itself is the same to a shell
				}
				if got != want || caught && string(rest) != "got\n" {
					t.Errorf("exit code %d, want %d; %q", got, want, rest)
				}
			})
		}
	}
}

// TestEarlySignals sends the front a signal while the link is not up yet: it is
// not lost, and the command never runs.
func TestEarlySignals(t *testing.T) {
	r := rig.New(t, rig.Options{Link: func(agent string) string { return "sleep 20; exec " + agent }})
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			cmd := r.Run("echo", "ran")
			var out bytes.Buffer
			cmd.Stdout = &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			late := time.AfterFunc(limit, func() { t.Error("goes on"); _ = cmd.Cancel() })
			defer late.Stop()
			for start := time.Now(); len(r.Parts()["supervisor"]) == 0; time.Sleep(10 * time.Millisecond) {
				if time.Since(start) > limit {
					t.Fatal("no supervisor")
				}
			}
			time.Sleep(200 * time.Millisecond)
			start := time.Now()
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			got := cmd.ProcessState.ExitCode()
			if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
				got = 128 + int(ws.Signal())
			}
			if want := 128 + int(sig); got != want {
				t.Errorf("exit code %d, want %d", got, want)
			}
			// The rest is what a link's command may have to end by itself.
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("ended after %v", d)
			}
			if out.Len() > 0 {
				t.Errorf("the command ran: %q", out.String())
			}
		})
	}
}

// TestEarlyStop stops the job while the link is not up yet: the shell sees that,
// and the command runs when it goes on.
func TestEarlyStop(t *testing.T) {
	r := rig.New(t, rig.Options{Link: func(agent string) string { return "sleep 1; exec " + agent }})
	cmd := r.Run("echo", "ran")
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(limit, func() { t.Error("goes on"); _ = cmd.Cancel() })
	defer late.Stop()
	time.Sleep(300 * time.Millisecond)
	job := -cmd.Process.Pid
	if err := unix.Kill(job, unix.SIGTSTP); err != nil {
		t.Fatal(err)
	}
	var ws unix.WaitStatus
	for start := time.Now(); !ws.Stopped(); time.Sleep(10 * time.Millisecond) {
		if _, err := unix.Wait4(cmd.Process.Pid, &ws, unix.WUNTRACED|unix.WNOHANG, nil); err != nil {
			t.Fatal(err)
		}
		if time.Since(start) > within {
			t.Fatal("not stopped")
		}
	}
	time.Sleep(time.Second)
	if err := unix.Kill(job, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || out.String() != "ran\n" {
		t.Errorf("continued: %v, %q", err, out.String())
	}
}

// TestIgnoredSignals starts run as nohup(1) and a shell's & do: what was
// ignored stays so in the command.
func TestIgnoredSignals(t *testing.T) {
	r := newRig(t, 0)
	for _, traps := range []string{"HUP", "INT", "HUP INT"} {
		t.Run(traps, func(t *testing.T) {
			ask := []string{"grep", "SigIgn", "/proc/self/status"}
			wrap := func(argv []string) []string {
				return append([]string{"sh", "-c", `trap "" ` + traps + `; exec "$0" "$@"`}, argv...)
			}
			want, _ := rig.Output(t, r.InView(wrap(ask)...), limit)
			got, _ := rig.Output(t, r.InView(wrap(r.RunArgs(ask...))...), limit)
			if got != want {
				t.Errorf("in run %q, natively %q", got, want)
			}
		})
	}
}

// terminal is a shell on a pseudo-terminal.
type terminal struct {
	t    *testing.T
	pty  *os.File
	seen chan []byte
	text bytes.Buffer // all of it

	unread string // after what was expected last
}

func startTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skip(err)
	}
	var n int
	raw, _ := pty.SyscallConn()
	_ = raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err != nil {
		t.Skip(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer tty.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = false, true, true
	cmd.Env = append(cmd.Env, "PS1=$ ", "TERM=dumb", "INPUTRC=/dev/null")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, pty: pty, seen: make(chan []byte, 1024)}
	go func() {
		defer close(term.seen)
		for {
			b := make([]byte, 4096)
			n, err := pty.Read(b)
			if n > 0 {
				term.seen <- b[:n]
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Cancel()
		_ = cmd.Wait()
		pty.Close()
		if t.Failed() {
			t.Logf("on the terminal: %q", term.text.String())
		}
	})
	return term
}

func (term *terminal) typed(s string) {
	term.t.Helper()
	if _, err := term.pty.WriteString(s); err != nil {
		term.t.Fatal(err)
	}
}

// expect waits for texts in this order, after what was expected before.
func (term *terminal) expect(texts ...string) {
	term.t.Helper()
	timeout := time.After(2 * limit)
	for _, s := range texts {
		for {
			if _, rest, ok := strings.Cut(term.unread, s); ok {
				term.unread = rest
				break
			}
			select {
			case got, ok := <-term.seen:
				term.unread += string(got)
				term.text.Write(got)
				if !ok {
					term.t.Fatalf("no %q, the terminal ended", s)
				}
			case <-timeout:
				term.t.Fatalf("no %q", s)
			}
		}
	}
}

// given waits until the terminal is a program's that runs: what is typed before
// the shell has given it away and continued the job goes to neither.
func (term *terminal) given(program string) {
	term.t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		var group int
		raw, _ := term.pty.SyscallConn()
		_ = raw.Control(func(fd uintptr) { group, _ = unix.IoctlGetInt(int(fd), unix.TIOCGPGRP) })
		there, stopped := false, false
		files, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, file := range files {
			stat, _ := os.ReadFile(file)
			_, stat, _ = bytes.Cut(stat, []byte("("))
			name, rest, _ := bytes.Cut(stat, []byte(")"))
			if f := strings.Fields(string(rest)); len(f) > 2 && f[2] == strconv.Itoa(group) {
				there = there || string(name) == program
				stopped = stopped || f[0] == "T"
			}
		}
		if there && !stopped {
			return
		}
		if time.Now().After(end) {
			term.t.Fatalf("the terminal is not %s's: group %d", program, group)
		}
	}
}

// TestJobControl has a person at a shell stop, continue and interrupt a command
// in run, and use a shell in run.
func TestJobControl(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip(err)
	}
	shell := func(argv ...string) []string { return append(argv, bash, "--norc", "--noprofile", "--noediting", "-i") }
	quoted := func(argv []string) string { return "'" + strings.Join(argv, "' '") + "'" }
	for _, acc := range ways {
		r := rig.New(t, acc.options())
		t.Run(acc.name+"/job", func(t *testing.T) {
			term := startTerminal(t, r.InView(shell()...))
			term.expect("$ ")
			// What is typed shows on the terminal too, and must not look like an answer.
			sleeper := []string{"sh", "-c", `echo rea""dy; exec sleep 100`}
			for _, argv := range [][]string{sleeper, r.RunArgs(sleeper...)} {
				term.typed(quoted(argv) + "\n")
				term.expect("ready")
				term.given("sleep")
				term.typed("\x1a") // ^Z
				term.expect("Stopped", "$ ")
				term.typed("bg; echo bg=$?\n")
				term.expect("bg=0", "$ ")
				time.Sleep(100 * time.Millisecond)
				term.typed("jobs\n")
				term.expect("Running", "$ ")
				term.typed("fg\n")
				term.expect("fg\r\n", "sleep 100")
				term.given("sleep")
				term.typed("\x1a")
				term.expect("Stopped", "$ ")
				term.typed("fg\n")
				term.expect("fg\r\n", "sleep 100")
				term.given("sleep")
				term.typed("\x03") // ^C
				term.expect("^C", "$ ")
				term.typed("echo code=$?\n")
				term.expect("code=130", "$ ")
			}
			term.typed(quoted(r.RunArgs("sh", "-c", `echo rea""dy; read x; echo got:$x`)) + "\n")
			term.expect("ready")
			term.typed("hello\n")
			term.expect("got:hello", "$ ")
			term.typed("exit\n")
		})
		t.Run(acc.name+"/shell", func(t *testing.T) {
			term := startTerminal(t, r.InView(r.RunArgs(shell()...)...))
			term.expect("$ ")
			term.typed("(echo rea\"\"dy; exec sleep 100)\n")
			term.expect("ready")
			term.given("sleep")
			term.typed("\x1a")
			term.expect("Stopped", "$ ")
			term.typed("bg\n")
			term.expect("$ ")
			term.typed("jobs\n")
			term.expect("Running", "$ ")
			term.typed("kill %1; wait %1; echo code=$?\n")
			term.expect("code=143", "$ ")
			term.typed("(echo rea\"\"dy; exec cat)\n")
			term.expect("ready")
			term.given("cat")
			term.typed("\x03")
			term.expect("^C", "$ ")
			term.typed("echo code=$?; tty >/dev/null && echo is-a-t''ty; stty -a | grep -c isig\n")
			term.expect("code=130", "is-a-tty", "$ ")
			term.typed("exit 3\n")
			for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
				if len(r.Processes()) == 0 {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("left: %v", r.Parts())
				}
			}
		})
	}
}
