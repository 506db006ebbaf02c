package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"drvsock/internal/standin"
)

func TestMain(m *testing.M) {
	standin.Main()
	goleak.VerifyTestMain(m)
}

// program builds drvsock as it is released.
func program(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(folderFor(t), "drvsock")
	cmd := exec.Command("go", "build", "-o", bin, "drvsock/cmd/drvsock")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

// folderFor makes a temporary folder that every account may look into.
func folderFor(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "demo") // TMPDIR may be for one account
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// nothingLeft checks that a demo with its temporary folder in tmp took
// everything down. The processes are waited for: the command's exit code comes
// before the last of them has ended.
func nothingLeft(t *testing.T, tmp string) {
	t.Helper()
	if files, err := os.ReadDir(tmp); err != nil || len(files) > 0 {
		t.Errorf("files left: %v, %v", files, err)
	}
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || bytes.Contains(b, []byte(tmp)) {
		t.Errorf("a mount below %s is left, or %v", tmp, err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		left := processesOf(tmp)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("processes left: %q", left)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// processesOf lists the processes with tmp as their TMPDIR.
func processesOf(tmp string) []string {
	var found []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		env, err := os.ReadFile(d + "/environ")
		if err != nil || !bytes.Contains(append(env, 0), []byte("TMPDIR="+tmp+"\x00")) {
			continue
		}
		cmdline, _ := os.ReadFile(d + "/cmdline")
		found = append(found, filepath.Base(d)+" "+string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
	}
	return found
}

// demoCommand is `drvsock demo ARG…` with a temporary folder of its own.
func demoCommand(t *testing.T, args ...string) (cmd *exec.Cmd, tmp string) {
	t.Helper()
	tmp = folderFor(t)
	bin := program(t) // which may take a while to build
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd = exec.CommandContext(ctx, bin, append([]string{"demo"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	cmd.WaitDelay = 5 * time.Second
	return cmd, tmp
}

func played(t *testing.T, cmd *exec.Cmd) *Report {
	t.Helper()
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("demo: %v\n%s%s", err, out.Bytes(), stderr.Bytes())
	}
	if stderr.Len() > 0 {
		t.Errorf("stderr: %s", stderr.Bytes())
	}
	r := new(Report)
	if err := json.Unmarshal(out.Bytes(), r); err != nil {
		t.Fatal(err)
	}
	if !r.OK || r.Expected() != len(r.Steps) {
		t.Errorf("not as expected: %s", out.Bytes())
	}
	return r
}

func needView(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no FUSE here (modprobe fuse): %v", err)
	}
	f.Close()
}

func TestDemo(t *testing.T) {
	needView(t)
	cmd, tmp := demoCommand(t, "--json")
	r := played(t, cmd)
	want, out := 6, 0
	if os.Geteuid() != 0 {
		want, out = 3, 1
	}
	if len(r.Steps) != want || len(r.LeftOut) != out {
		t.Errorf("%d steps, want %d; left out: %q", len(r.Steps), want, r.LeftOut)
	}
	nothingLeft(t, tmp)
}

// TestUser is the demo of ordinary users: one with a name, whom fusermount3
// serves if it is there, and one without, who needs a namespace for a view.
func TestUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be somebody else (sudo go test)")
	}
	for name, uid := range map[string]uint32{"nobody": 65534, "nameless": 59003} {
		t.Run(name, func(t *testing.T) {
			cmd, tmp := demoCommand(t, "--json")
			if err := os.Chown(tmp, int(uid), int(uid)); err != nil {
				t.Fatal(err)
			}
			cmd.Dir = "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
			r := played(t, cmd)
			if len(r.Steps) < 2 || len(r.LeftOut) == 0 {
				t.Errorf("%d steps, left out: %q", len(r.Steps), r.LeftOut)
			}
			nothingLeft(t, tmp)
		})
	}
}

// TestWine is the demo with real Windows programs.
func TestWine(t *testing.T) {
	rig := os.Getenv("DRVSOCK_WINE")
	if rig == "" {
		t.Skip("needs Wine (wine/setup DIR; DRVSOCK_WINE=DIR go test)")
	}
	exe := filepath.Join(folderFor(t), "drvsock.exe")
	build := exec.Command("go", "build", "-o", exe, "drvsock/cmd/drvsock")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=windows", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	cmd, tmp := demoCommand(t, "--json", "--wine", rig, "--agent", exe)
	if r := played(t, cmd); len(r.Steps) < 2 || len(r.Notes) == 0 {
		t.Errorf("%d steps, notes: %q", len(r.Steps), r.Notes)
	}
	nothingLeft(t, tmp)
}

func TestInterrupt(t *testing.T) {
	cmd, tmp := demoCommand(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	// As a shell starts a job: its process group is what Ctrl-C goes to.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said []byte
	for buf := make([]byte, 1024); !bytes.Contains(said, []byte("drvsock run")); {
		n, err := out.Read(buf)
		said = append(said, buf[:n]...)
		if err != nil {
			t.Fatalf("the demo ended early: %v\n%s%s", err, said, stderr.Bytes())
		}
	}
	if err := unix.Kill(-cmd.Process.Pid, unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("ended with %v, want exit code 1", err)
	}
	if got, want := stderr.String(), "drvsock: error: interrupted\n"; got != want {
		t.Errorf("stderr %q, want %q", got, want)
	}
	nothingLeft(t, tmp)
}

// TestBroken checks that the demo sees it when drvsock does not work.
func TestBroken(t *testing.T) {
	broken := filepath.Join(folderFor(t), "drvsock")
	text := "#!/bin/sh\n[ \"$1\" = " + Word + " ] && exec " + program(t) + " \"$@\"\nexit 125\n"
	if err := os.WriteFile(broken, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", folderFor(t))
	t.Setenv(movedVar, "no") // this test can't start itself in a namespace
	var out bytes.Buffer
	r, err := Run(t.Context(), Options{Program: broken, Out: &out})
	if err != nil {
		t.Fatal(err)
	}
	if r.OK {
		t.Errorf("all as expected:\n%s", out.Bytes())
	}
	for _, s := range r.Steps {
		if native := strings.HasPrefix(s.Name, "without drvsock"); s.OK != native {
			t.Errorf("%s: ok is %v", s.Name, s.OK)
		}
	}
	if !strings.Contains(out.String(), "that differs: expected") {
		t.Errorf("the transcript doesn't say what differs:\n%s", out.Bytes())
	}
}

func TestExpect(t *testing.T) {
	for _, tt := range []struct {
		name   string
		want   expect
		exit   int
		output string
		ok     bool
	}{
		{"same", expect{0, []string{"a", "b"}}, 0, "a\nb\n", true},
		{"other exit code", expect{0, []string{"a"}}, 1, "a\n", false},
		{"a line more", expect{0, []string{"a"}}, 0, "a\nb\n", false},
		{"a line less", expect{0, []string{"a", "b"}}, 0, "a\n", false},
		{"star", expect{0, []string{"name is *", "b"}}, 0, "name is x y\nb\n", true},
		{"star stays in its line", expect{0, []string{"*"}}, 0, "a\nb\n", false},
		{"dot is a dot", expect{0, []string{"a.b"}}, 0, "axb\n", false},
		{"silence", expect{0, []string{}}, 0, "", true},
		{"no silence", expect{0, []string{}}, 0, "a\n", false},
		{"whatever", expect{0, nil}, 0, "a\n", true},
	} {
		if got := tt.want.of(&Command{Exit: tt.exit, Output: tt.output}); (got == "") != tt.ok {
			t.Errorf("%s: differs %q, want ok %v", tt.name, got, tt.ok)
		}
	}
}
