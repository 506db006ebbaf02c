package pageant

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"drvsock/wine"
)

// underWine builds this test for Windows and returns how to start it there.
func underWine(t *testing.T) func(args ...string) *exec.Cmd {
	t.Helper()
	rig, err := wine.Find()
	if err != nil {
		t.Skipf("%v: wine/setup DIR, then %s=DIR go test ./internal/pageant", err, wine.Env)
	}
	if err := rig.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	built := filepath.Join(t.TempDir(), "pageant.exe")
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
	return func(args ...string) *exec.Cmd { return rig.Command(t.Context(), exe, args...) }
}

// server starts the Pageant of main_windows_test.go. end ends it and returns what
// it has said.
func server(t *testing.T, cmd *exec.Cmd) (first string, end func() string) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	first, err = r.ReadString('\n')
	if err != nil {
		_ = cmd.Wait()
		t.Fatalf("the server says %q, %v:\n%s", first, err, log.String())
	}
	var once sync.Once
	var said string
	end = func() string {
		once.Do(func() {
			_ = in.Close()
			slow := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
			defer slow.Stop()
			var b strings.Builder
			for {
				line, err := r.ReadString('\n')
				b.WriteString(line)
				if err != nil {
					break
				}
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("the server: %v", err)
			}
			said = strings.ReplaceAll(b.String(), "\r", "")
			t.Logf("the server's log:\n%s", log.String())
		})
		return said
	}
	t.Cleanup(func() { end() })
	return first, end
}

func TestWine(t *testing.T) {
	start := underWine(t)
	rig, err := wine.Find()
	if err != nil {
		t.Fatal(err)
	}
	release, err := rig.Alone(t.Context(), "pageant")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ask := func(want string, args ...string) {
		t.Helper()
		out, err := start(append([]string{"ask"}, args...)...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("ask %s: %v\n%s", args, err, out)
		}
		t.Logf("ask %s: %s", args, strings.TrimSpace(string(out)))
	}
	t.Run("nobody", func(t *testing.T) {
		out, err := start("ask", "any", "1", "1").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "ECONNREFUSED") {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("both", func(t *testing.T) {
		first, end := server(t, start("serve", "both"))
		if strings.TrimSpace(first) != "pipe true window true" {
			t.Errorf("the server has %s", first)
		}
		ask("pipeConn 100 answers", "pipe", "100", "1000")
		ask("duplex 100 answers", "window", "100", "1000")
		ask("duplex 2 answers", "window", "2", "200000")
		ask("pipeConn 2 answers", "pipe", "2", "200000")
		ask("pipeConn 3 answers", "any", "3", "1")
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { ask("duplex 20 answers", "window", "20", "5000") })
			wg.Go(func() { ask("pipeConn 20 answers", "pipe", "20", "5000") })
		}
		wg.Wait()
		said := end()
		if n := len(regexp.MustCompile(`(?m)^caller 0 "" ".+"$`).FindAllString(said, -1)); n != 100+2+80 {
			t.Errorf("%d questions by the window, want 182", n)
		}
		if n := len(regexp.MustCompile(`(?m)^caller [1-9]\d* "pageant.exe" ".+"$`).FindAllString(said, -1)); n < 1+1+1+4 {
			t.Errorf("%d connections by the pipe, want 7:\n%s", n, said)
		}
		// Two of go-winio's stay.
		if !regexp.MustCompile(`(?m)^left -?[0-2]$`).MatchString(said) {
			t.Errorf("the server left goroutines, or did not end in an orderly way:\n%s", said[strings.LastIndex(strings.TrimSpace(said), "\n")+1:])
		}
	})
	t.Run("window alone", func(t *testing.T) {
		_, end := server(t, start("serve", "window"))
		ask("duplex 3 answers", "window", "3", "10")
		out, err := start("serve", "both").CombinedOutput() // ends at once: no input
		t.Logf("a second server: %v, %s", err, out)
		end()
	})
}
