package socket

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"drvsock/wine"
)

// The Windows half under Wine: the tests of this package, built for Windows.
func TestUnderWine(t *testing.T) {
	rig, err := wine.Find()
	if err != nil {
		t.Skipf("%v: wine/setup DIR, then %s=DIR go test ./internal/socket", err, wine.Env)
	}
	built := filepath.Join(t.TempDir(), "socket.exe")
	compile := exec.Command("go", "test", "-c", "-o", built, ".")
	compile.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("compile: %v\n%s", err, out)
	}
	dir, err := rig.Temp()
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	exe, err := rig.Put(dir, built)
	check(t, err)
	cmd := rig.Command(t.Context(), exe, "-test.v", "-test.timeout=2m")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else if testing.Verbose() {
		t.Logf("%s", out)
	}
}
