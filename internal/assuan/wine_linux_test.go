package assuan

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drvsock/internal/cygwin"
	"drvsock/wine"
)

// Both kinds of stand-ins, this package's and Cygwin's, on Windows; and a program
// here by the files of one there.
func TestWine(t *testing.T) {
	rig, err := wine.Find()
	if err != nil {
		t.Skipf("%v: wine/setup DIR, then %s=DIR go test ./internal/assuan", err, wine.Env)
	}
	if err := rig.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	built := filepath.Join(t.TempDir(), "assuan.exe")
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
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := rig.Command(ctx, exe, "check", rig.Windows(dir))
	var log strings.Builder
	cmd.Stderr = &log
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			_ = cmd.Wait()
			t.Fatalf("%v:\n%s", err, log.String())
		}
		if strings.TrimSpace(line) == "ready" {
			break
		}
		t.Log(strings.TrimSpace(line))
	}
	for name, dial := range map[string]func(context.Context, string) (Conn, error){
		"assuan": Dial, "cygwin": func(ctx context.Context, path string) (Conn, error) { return cygwin.Dial(ctx, path) },
	} {
		conn, err := dial(ctx, filepath.Join(dir, name))
		if err != nil {
			t.Errorf("%s from here: %v", name, err)
			continue
		}
		_, err = io.WriteString(conn, "hello")
		if err == nil {
			err = conn.CloseWrite()
		}
		b, err2 := io.ReadAll(conn)
		if string(b) != "hello" || err != nil || err2 != nil {
			t.Errorf("%s from here: %q, %v, %v", name, b, err, err2)
		}
		_ = conn.Close()
	}
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v:\n%s", err, log.String())
	}
	for _, name := range []string{"assuan", "cygwin"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !os.IsNotExist(err) {
			t.Errorf("%s stays: %v", name, err)
		}
	}
}
