//go:build linux

package rig

import (
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"drvsock/internal/standin"
)

//go:embed testdata/*.c
var sources embed.FS

// Main is TestMain of a package that uses rigs. It builds what the tests share
// when first asked for it and removes it at the end.
func Main(m *testing.M) {
	standin.Main()
	code := m.Run()
	if shared.dir != "" {
		_ = os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

// shared is what is built once per run.
var shared struct {
	mu    sync.Mutex
	dir   string
	built map[string]string // file by what it was built of
}

// once returns the file that build makes for key, built once per run.
func once(tb testing.TB, key string, build func(file string) *exec.Cmd) string {
	tb.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.dir == "" {
		dir, err := os.MkdirTemp(Temp(), "rigbin")
		if err == nil {
			err = os.Chmod(dir, 0o755)
		}
		if err != nil {
			tb.Fatal(err)
		}
		shared.dir, shared.built = dir, map[string]string{}
	}
	if file, ok := shared.built[key]; ok {
		return file
	}
	file := filepath.Join(shared.dir, fmt.Sprintf("%x", sha256.Sum256([]byte(key)))[:12])
	cmd := build(file)
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%q: %v\n%s", cmd.Args, err, out)
	}
	shared.built[key] = file
	return file
}

// Binary builds drvsock from this tree, or takes the file that DRVSOCK_BIN names.
func Binary(tb testing.TB) string {
	tb.Helper()
	given := os.Getenv("DRVSOCK_BIN")
	return once(tb, "drvsock", func(file string) *exec.Cmd {
		if given != "" {
			return exec.Command("cp", given, file)
		}
		cmd := exec.Command("go", "build", "-o", file, "drvsock/cmd/drvsock")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		return cmd
	})
}

// NeedC skips the test if there is no C compiler, or none that takes flags, or if the
// kernel doesn't run what it makes, as one without IA32_EMULATION does with -m32.
func NeedC(tb testing.TB, flags ...string) {
	tb.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		tb.Skip(err)
	}
	exe := filepath.Join(tb.TempDir(), "needed")
	cmd := exec.Command("gcc", append(flags, "-x", "c", "-", "-o", exe)...)
	cmd.Stdin = strings.NewReader("#include <stdio.h>\nint main(void) { return 0; }\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Skipf("gcc %q: %v: %s", flags, err, out)
	}
	if err := exec.Command(exe).Run(); errors.Is(err, syscall.ENOEXEC) {
		tb.Skipf("gcc %q: this kernel runs no such program: %v", flags, err)
	} else if err != nil {
		tb.Fatalf("gcc %q: its program: %v", flags, err)
	}
}

// Compile builds a C program from a file of this package's testdata.
func Compile(tb testing.TB, name string, flags ...string) string {
	tb.Helper()
	NeedC(tb, flags...)
	text, err := sources.ReadFile("testdata/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return once(tb, fmt.Sprint(name, flags), func(file string) *exec.Cmd {
		cmd := exec.Command("gcc", append(flags, "-O1", "-pthread", "-x", "c", "-", "-o", file)...)
		cmd.Stdin = strings.NewReader(string(text))
		return cmd
	})
}

// Go builds a Go program of this module, statically.
func Go(tb testing.TB, path string) string {
	tb.Helper()
	return once(tb, "go "+path, func(file string) *exec.Cmd {
		cmd := exec.Command("go", "build", "-o", file, path)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		return cmd
	})
}

// Seed compiles one of the programs of the post that began it all, client,
// server or bind, as it stands: from the folder that DRVSOCK_SEED names or
// from shared/seed beside this tree. Where there is neither, it is a
// look-alike of our own that prints the same.
func Seed(tb testing.TB, name string) string {
	tb.Helper()
	dir := os.Getenv("DRVSOCK_SEED")
	if dir == "" {
		if root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output(); err == nil {
			dir = filepath.Join(filepath.Dir(strings.TrimSpace(string(root))), "shared", "seed")
		}
	}
	if _, err := os.Stat(filepath.Join(dir, name+".c")); err != nil {
		return Compile(tb, name+".c")
	}
	NeedC(tb)
	return once(tb, "seed "+dir+name, func(file string) *exec.Cmd {
		// They use functions of string.h that they don't include.
		return exec.Command("gcc", "-w", "-include", "string.h", "-o", file, filepath.Join(dir, name+".c"))
	})
}

// become makes a launcher that runs a command under the agent's account when
// an ordinary user starts it, by the set-user-ID bit for that account.
func (r *Rig) become() string {
	r.tb.Helper()
	file := filepath.Join(r.dir, "become")
	if _, err := os.Stat(file); err == nil {
		return file
	}
	text, err := os.ReadFile(Compile(r.tb, "become.c"))
	if err == nil {
		err = os.WriteFile(file, text, 0o755)
	}
	if err == nil {
		err = os.Chown(file, int(r.opts.Agent), int(r.opts.Agent))
	}
	if err == nil {
		err = os.Chmod(file, 0o755|os.ModeSetuid|os.ModeSetgid) // after chown, which clears them
	}
	if err != nil {
		r.tb.Fatal(err)
	}
	return file
}
