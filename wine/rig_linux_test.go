package wine

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func rig(t *testing.T) *Rig {
	t.Helper()
	r, err := Find()
	if errors.Is(err, ErrNoRig) {
		t.Skip(err)
	}
	if err == nil {
		err = r.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func temp(t *testing.T, r *Rig) string {
	t.Helper()
	dir, err := r.Temp()
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

func bounded(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// probe builds the program in ./probe and puts it into dir.
func probe(t *testing.T, r *Rig, dir string) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "probe.exe")
	cmd := exec.CommandContext(bounded(t, 3*time.Minute), "go", "build", "-o", exe, "./probe")
	cmd.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	exe, err := r.Put(dir, exe)
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// TestWineProbe runs the checks of ./probe; each is a subtest.
func TestWineProbe(t *testing.T) {
	r := rig(t)
	exe := probe(t, r, temp(t, r))
	out, err := r.Command(bounded(t, time.Minute), exe).CombinedOutput()
	n := 0
	for line := range strings.Lines(string(out)) {
		how, what, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, why, _ := strings.Cut(what, ": ")
		if how != "ok" && how != "FAIL" {
			t.Log(line)
			continue
		}
		n++
		t.Run(name, func(t *testing.T) {
			if how != "ok" {
				t.Error(why)
			}
		})
	}
	if err != nil || n < 5 {
		t.Errorf("%d checks ran, %v", n, err)
	}
}

// TestWinePermissions shows that the folder's Linux owner and mode bind the
// Windows program, since it runs as an ordinary user.
func TestWinePermissions(t *testing.T) {
	r := rig(t)
	if uid, _ := r.User(); uid == os.Geteuid() {
		t.Skip("needs a rig under another account")
	}
	dir := temp(t, r)
	exe := probe(t, r, dir)
	closed := filepath.Join(dir, "closed")
	if err := os.Mkdir(closed, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, want string }{
		{filepath.Join(closed, "x.sock"), "10013\n"}, // WSAEACCES
		{filepath.Join(dir, "x.sock"), "0\n"},
		{filepath.Join(dir, "none", "x.sock"), "10050\n"}, // WSAENETDOWN
	} {
		out, err := r.Command(bounded(t, time.Minute), exe, "bind", r.Windows(c.path)).CombinedOutput()
		if got := string(out); err != nil || got != c.want {
			t.Errorf("bind of %s: %q, %v, want %q", c.path, got, err, c.want)
		}
	}
}

// TestWineForeignServer lets a C++ server that was written for Windows, the
// sample of Microsoft's post about AF_UNIX on WSL, serve a Go client. It runs
// where that sample is at hand, in $DRVSOCK_SEED or beside the clone.
func TestWineForeignServer(t *testing.T) {
	r := rig(t)
	seed := os.Getenv("DRVSOCK_SEED")
	if seed == "" {
		seed = filepath.Join("..", "..", "shared", "seed")
	}
	src := filepath.Join(seed, "af_unix_win_server.cpp")
	if _, err := os.Stat(src); err != nil {
		t.Skip("the post's server is not at hand")
	}
	dir := temp(t, r)
	exe := filepath.Join(dir, "server.exe")
	build := exec.CommandContext(bounded(t, time.Minute), "x86_64-w64-mingw32-g++-posix", "-O2", "-static", "-s", "-o", exe, src, "-lws2_32")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	client := probe(t, r, dir)

	server := r.Command(bounded(t, time.Minute), exe)
	server.Dir = dir
	stdout, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(dir, "server.sock")
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if st, err := os.Stat(sock); err == nil && st.Size() > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no socket after 20 s")
		}
	}
	// The file is there from bind on; until listen, connecting is refused.
	var got []byte
	for end := time.Now().Add(20 * time.Second); ; {
		got, err = r.Command(bounded(t, time.Minute), client, "dial", r.Windows(sock)).Output()
		if err == nil || time.Now().After(end) {
			break
		}
	}
	if want := "af_unix from Windows to WSL!"; string(got) != want || err != nil {
		t.Errorf("client got %q, %v, want %q", got, err, want)
	}
	said := bufio.NewScanner(stdout)
	last := ""
	for said.Scan() {
		last = strings.TrimSpace(said.Text())
	}
	if err := server.Wait(); err != nil || last != "Shutting down" {
		t.Errorf("server: %v, its last line %q", err, last)
	}
}

func TestWindowsPath(t *testing.T) {
	r := &Rig{dir: "/rig"}
	for _, c := range []struct{ path, want string }{
		{"/rig/prefix/drive_c", `C:\`},
		{"/rig/prefix/drive_c/a/b.sock", `C:\a\b.sock`},
		{"/rig/prefix/drive_cc", `Z:\rig\prefix\drive_cc`},
		{"/etc/hosts", `Z:\etc\hosts`},
		{"/", `Z:\`},
	} {
		if got := r.Windows(c.path); got != c.want {
			t.Errorf("Windows(%q) = %q, want %q", c.path, got, c.want)
		}
	}
}
