package house

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// targets are the systems that the product is built for.
var targets = []struct{ os, arch string }{
	{"linux", "amd64"}, {"linux", "arm64"}, {"windows", "amd64"}, {"windows", "arm64"},
}

// goTool runs the go command for a target at the top of the module.
func goTool(t *testing.T, goos, goarch string, args ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs compilers")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = top(t)
	cmd.Env = append(os.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	cmd.WaitDelay = 10 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("GOOS=%s GOARCH=%s go %s: %v\n%s", goos, goarch, strings.Join(args, " "), err, out)
	}
}

// TestVet type-checks the tests too, so code that only they need is covered for
// the systems on which they don't run here.
func TestVet(t *testing.T) {
	for _, c := range targets {
		t.Run(c.os+"/"+c.arch, func(t *testing.T) { goTool(t, c.os, c.arch, "vet", "./...") })
	}
}

func TestBuild(t *testing.T) {
	for _, c := range targets {
		t.Run(c.os+"/"+c.arch, func(t *testing.T) { goTool(t, c.os, c.arch, "build", "./...") })
	}
}

func TestStaticcheck(t *testing.T) {
	// The tool is built for the machine that runs it, so its target is told by
	// environment variables that it reads, not by those that go tool builds with.
	if testing.Short() {
		t.Skip("runs compilers")
	}
	bin := t.TempDir() + "/staticcheck"
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "build", "-o", bin, "honnef.co/go/tools/cmd/staticcheck")
	build.Dir = top(t)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build of staticcheck: %v\n%s", err, out)
	}
	for _, goos := range []string{"linux", "windows"} {
		t.Run(goos, func(t *testing.T) {
			cmd := exec.CommandContext(ctx, bin, "./...")
			cmd.Dir = top(t)
			cmd.Env = append(os.Environ(), "GOOS="+goos, "GOARCH=amd64", "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
