package seccomp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"drvsock/internal/errno"

	"golang.org/x/sys/unix"
)

// compile builds testdata/calls.c with flags, or skips.
func compile(t *testing.T, flags ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "calls")
	cmd := exec.Command("gcc", append(flags, "-O1", "-o", out, "testdata/calls.c")...)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("gcc %v: %v; apt-get install gcc gcc-multilib\n%s", flags, err, b)
	}
	return runnable(t, out)
}

// runnable skips if the kernel doesn't run exe: one without IA32_EMULATION runs no
// 32-bit programs.
func runnable(t *testing.T, exe string) string {
	t.Helper()
	cmd := exec.Command(exe)
	err := cmd.Start()
	if errors.Is(err, unix.ENOEXEC) {
		t.Skipf("this kernel runs no such program: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return exe
}

// TestPrograms runs a C program that uses every way into the kernel, and tells
// from the notifications alone what the program says that it did.
func TestPrograms(t *testing.T) {
	kinds := map[string][]string{"dynamic": nil, "static": {"-static"}}
	if runtime.GOARCH == "amd64" {
		kinds["32-bit"] = []string{"-m32"}
		kinds["32-bit static"] = []string{"-m32", "-static"}
	}
	for name, flags := range kinds {
		t.Run(name, func(t *testing.T) {
			exe := compile(t, flags...)
			p := launch(t, options(), exe)
			var want strings.Builder
			compat := strings.HasPrefix(name, "32-bit")
			for i := 0; ; i++ {
				n, err := p.Recv()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				e := errno.Errno(1 + i)
				line, c := describe(t, n)
				if c.Op != OpUnknown && c.Compat != compat && i < 7 {
					t.Errorf("call %d: Compat = %v, want %v", i, c.Compat, compat)
				}
				fmt.Fprintf(&want, "%s -> -1 %d\n", line, e)
				if err := p.Return(n.ID, 0, e); err != nil {
					t.Fatal(err)
				}
			}
			got := p.finish(t)
			if got != want.String() {
				t.Errorf("program says\n%sseen\n%s", got, &want)
			}
			if lines := strings.Count(got, "\n"); compat && lines != 11 || !compat && lines < 7 {
				t.Errorf("%d calls:\n%s", lines, got)
			}
			if compat && p.stderr.String() != "socket made\n" {
				t.Errorf("socketcall that isn't ours: %s", &p.stderr)
			}
		})
	}
}

// describe says of a call what testdata/calls.c prints of it.
func describe(t *testing.T, n Notif) (string, Call) {
	t.Helper()
	c, err := n.Call()
	if errors.Is(err, errno.EFAULT) {
		return "fault 0 - 0", c
	}
	if err != nil {
		t.Fatal(err)
	}
	if c.Op == OpListen {
		return fmt.Sprintf("listen %d - %d", c.FD, c.Backlog), c
	}
	what := "fault"
	buf := make([]byte, c.Len)
	switch err := ReadMemory(n.TID, c.Addr, buf); {
	case err == nil:
		what = string(buf[2:])
	case !errors.Is(err, errno.EFAULT):
		t.Fatal(err)
	}
	return fmt.Sprintf("%v %d %s %d", c.Op, c.FD, what, c.Len), c
}

// TestGo386 runs a 32-bit Go program whose calls all continue, and which so
// works as without a filter.
func TestGo386(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("386 programs run on amd64 alone")
	}
	dir := t.TempDir()
	exe, sock := filepath.Join(dir, "echo"), filepath.Join(dir, "s")
	cmd := exec.Command("go", "build", "-o", exe, "testdata/echo386.go")
	cmd.Env = append(os.Environ(), "GOARCH=386", "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, b)
	}
	p := launch(t, options(), runnable(t, exe), sock)
	var seen []Op
	for {
		n, err := p.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		c, err := n.Call()
		if err != nil {
			t.Fatal(err)
		}
		if !c.Compat {
			t.Errorf("call %+v isn't taken for one of a 32-bit program", c)
		}
		seen = append(seen, c.Op)
		if err := p.Continue(n.ID); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := p.finish(t), "hello "+sock+"\n"; got != want {
		t.Errorf("program says %q, want %q", got, want)
	}
	// The runtime's package net tries further sockets out at its start.
	for _, op := range []Op{OpBind, OpListen, OpConnect} {
		if !bytes.Contains([]byte(fmt.Sprint(seen)), []byte(op.String())) {
			t.Errorf("no %v among %v", op, seen)
		}
	}
}

// BenchmarkGetppid: what a call costs that isn't ours.
func BenchmarkGetppid(b *testing.B) {
	b.Run("native", func(b *testing.B) {
		for b.Loop() {
			unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
		}
	})
	b.Run("filter", func(b *testing.B) { benchRole(b, "getppid", nil) })
}

// BenchmarkConnect: what a call costs that is ours.
func BenchmarkConnect(b *testing.B) {
	b.Run("native", func(b *testing.B) {
		for b.Loop() {
			connect(1000, "/x")
		}
	})
	b.Run("continue", func(b *testing.B) {
		benchRole(b, "connect", func(p *target, n Notif) error { return p.Continue(n.ID) })
	})
	b.Run("return", func(b *testing.B) {
		benchRole(b, "connect", func(p *target, n Notif) error { return p.Return(n.ID, 0, 0) })
	})
	b.Run("read, getfd, return", func(b *testing.B) {
		buf := make([]byte, 4)
		benchRole(b, "connect", func(p *target, n Notif) error {
			c, err := n.Call()
			if err == nil {
				err = ReadMemory(n.TID, c.Addr, buf)
			}
			if err != nil {
				return err
			}
			fd, err := GetFD(n.TID, 1)
			if err != nil {
				return err
			}
			unix.Close(fd)
			return p.Return(n.ID, 0, 0)
		})
	})
}

// benchRole times b.N calls within a target.
func benchRole(b *testing.B, op string, answer func(*target, Notif) error) {
	p := role(b, "bench", op, strconv.Itoa(b.N))
	for {
		n, err := p.Recv()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = answer(p, n)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(p.finish(b)), 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(time.Duration(ns).Nanoseconds())/float64(b.N), "ns/op")
}
