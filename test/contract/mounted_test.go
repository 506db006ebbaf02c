//go:build linux

package contract

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// refuse executes a command for which the kernel has no seccomp filters but this
// one, which says so with the number errno. The command and all that it starts can
// install none.
func refuse(errno string, argv []string) error {
	n, err := strconv.Atoi(errno)
	if err != nil {
		return err
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_SECCOMP},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(n)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	if os.Geteuid() != 0 { // or sudo would not be what it is
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&fprog)), 0, 0); err != nil {
		return err
	}
	return syscall.Exec(path, argv, os.Environ())
}

// inside are the places in which no filter can be had: another run, whose filter
// has the one listener that there may be, as WSL's has in Mirrored networking; and
// a system without.
var inside = []struct {
	name, says string
	wrap       func(r *rig.Rig, argv []string) []string
}{
	{"run", "another seccomp listener is in force", func(r *rig.Rig, argv []string) []string {
		return append([]string{r.Bin, "run", "--embed", "Z=/tmp", "--"}, argv...)
	}},
	{"same run", "another seccomp listener is in force", func(r *rig.Rig, argv []string) []string { return r.RunArgs(argv...) }},
	{"no seccomp", "function not implemented", func(r *rig.Rig, argv []string) []string {
		return refused(r, unix.ENOSYS, argv)
	}},
	{"forbidden", "operation not permitted", func(r *rig.Rig, argv []string) []string {
		return refused(r, unix.EPERM, argv)
	}},
}

// refused is a command line by which argv has no seccomp filters.
func refused(r *rig.Rig, errno unix.Errno, argv []string) []string {
	return append([]string{"env", roleVar + "=1", filepath.Join(filepath.Dir(r.Bin), "refuse"), "refuse", strconv.Itoa(int(errno))}, argv...)
}

// copySelf puts this test binary where every account can execute it.
func copySelf(t *testing.T, r *rig.Rig) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(filepath.Join(filepath.Dir(r.Bin), "refuse"), b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestFallback has run take its other way where no filter can be had: the post's
// programs reach each other in both directions and print what they print on one
// machine, exit codes are the command's, and -v says what was done.
func TestFallback(t *testing.T) {
	client, server := rig.Seed(t, "client"), rig.Seed(t, "server")
	for _, acc := range accounts {
		for _, in := range inside {
			t.Run(acc.name+"/"+in.name, func(t *testing.T) {
				o := rig.Options{Agent: acc.uid, Program: acc.uid}
				r := rig.New(t, o)
				copySelf(t, r)
				o.Plain = true
				native := rig.New(t, o)
				run := func(argv ...string) *exec.Cmd { return r.InView(in.wrap(r, r.RunArgs(argv...))...) }
				want := pair(t, native.OnHost(server), native.OnHost(client))
				if d := cmp.Diff(want, pair(t, r.OnHost(server), run(client))); d != "" {
					t.Error(d)
				}
				if d := cmp.Diff(want, pair(t, run(server), r.OnHost(client))); d != "" {
					t.Error(d)
				}
				if left, _ := filepath.Glob(r.Host + "/*"); len(left) > 0 {
					t.Errorf("files left: %q", left)
				}
				for code, argv := range map[int][]string{7: {"sh", "-c", "exit 7"}, 127: {"./no-such-command"}, 126: {"/dev/null"}, 143: {"sh", "-c", "kill -TERM $$"}} {
					if _, got := rig.Output(t, run(argv...), limit); got != code {
						t.Errorf("%q: exit code %d, want %d", argv, got, code)
					}
				}
				argv := r.RunArgs("true")
				argv = append([]string{argv[0], argv[1], "-v"}, argv[2:]...)
				words := said(t, r.InView(in.wrap(r, argv)...))
				if !strings.Contains(words, "the drives are mounted for this run alone") || !strings.Contains(words, in.says) ||
					!strings.Contains(words, `mounted for this run host=C:\ dir=`+r.View) {
					t.Errorf("-v says %q, want why the drives are mounted (%s) and which", words, in.says)
				}
				argv[2] = "--by=filter"
				words = said(t, r.InView(in.wrap(r, argv)...))
				if !strings.Contains(words, "drvsock: error: ") || !strings.Contains(words, in.says) {
					t.Errorf("with --by=filter it says %q", words)
				}
			})
		}
	}
}

// TestMountedTree compares what a program by mount sees of the system with what
// it sees without: the same files, under the same ids, and nothing of its mounts
// outside.
func TestMountedTree(t *testing.T) {
	for _, w := range ways[2:] {
		t.Run(w.name, func(t *testing.T) {
			r := rig.New(t, w.options())
			if err := os.WriteFile(filepath.Join(r.Host, "file"), []byte("text"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(r.Host, "a/b"), 0o755); err != nil {
				t.Fatal(err)
			}
			// A relative name, the working folder, an executable and a terminal's size
			// are looked up in the view.
			script := filepath.Join(r.Host, "script")
			if err := os.WriteFile(script, []byte("#!/bin/sh\npwd; cat file; id -u; id -g; echo *\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			want, _ := rig.Output(t, r.InView("./script"), limit)
			got, code := rig.Output(t, r.Run("./script"), limit)
			if got != want || code != 0 {
				t.Errorf("by mount, exit code %d, %q; without %q", code, got, want)
			}
			deep := r.Run("pwd")
			deep.Dir = filepath.Join(r.View, "a/b")
			if got, _ := rig.Output(t, deep, limit); got != deep.Dir+"\n" {
				t.Errorf("the working folder is %q, want %q", got, deep.Dir)
			}
			before, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil {
				t.Fatal(err)
			}
			p := rig.StartProbe(t, r.Run(rig.ProbeProgram(t)))
			p.Want("ok", "umask 0")
			during, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil {
				t.Fatal(err)
			}
			if n, m := count(before, r.View), count(during, r.View); n != m {
				t.Errorf("%d mounts at the view outside, %d before", m, n)
			}
		})
	}
}

func count(mountinfo []byte, dir string) int { return strings.Count(string(mountinfo), " "+dir+" ") }
