package hyperv

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"drvsock/wine"
)

// The Windows half under Wine, as far as it is there: the tests of this package,
// built for Windows. Wine has no Hyper-V sockets.
func TestUnderWine(t *testing.T) {
	rig, err := wine.Find()
	if err != nil {
		t.Skipf("%v: wine/setup DIR, then %s=DIR go test ./internal/hyperv", err, wine.Env)
	}
	built := filepath.Join(t.TempDir(), "hyperv.exe")
	compile := exec.Command("go", "test", "-c", "-o", built, ".")
	compile.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("compile: %v\n%s", err, out)
	}
	dir, err := rig.Temp()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	exe, err := rig.Put(dir, built)
	if err != nil {
		t.Fatal(err)
	}
	cmd := rig.Command(t.Context(), exe, "-test.v", "-test.timeout=1m", "-test.skip=^TestListenAll")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else if testing.Verbose() {
		t.Logf("%s", out)
	}
}
