package standin

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asUserVar makes a copy of the test binary do what it names, as another user.
const asUserVar = "STANDIN_TEST_AS"

const nobody = 65534

// asUser does what asUserVar says: "probe FOLDER" tries things in the folder and
// prints what came of it, "keep DIR VIEW" mounts until standard input ends.
func asUser() {
	args := strings.Fields(os.Getenv(asUserVar))
	if len(args) == 0 {
		return
	}
	os.Unsetenv(asUserVar)
	switch args[0] {
	case "probe":
		p := args[1]
		fmt.Println("connect open:", connects(filepath.Join(p, "open.sock")))
		fmt.Println("connect closed:", connects(filepath.Join(p, "closed.sock")))
		fmt.Println("bind in own:", binds(filepath.Join(p, "own", "x.sock")))
		fmt.Println("bind in other's:", binds(filepath.Join(p, "x.sock")))
		fmt.Println("write in own:", number(os.WriteFile(filepath.Join(p, "own", "f"), nil, 0o600)))
		fmt.Println("write in other's:", number(os.WriteFile(filepath.Join(p, "f"), nil, 0o600)))
	case "keep":
		f, err := Spawn(args[1], args[2], Options{})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("mounted", binds(filepath.Join(args[2], "x.sock")))
		io.Copy(io.Discard, os.Stdin)
		if err := f.Unmount(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("unmounted")
	}
	os.Exit(0)
}

func again(t *testing.T, uid uint32, args string) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 && uid != uint32(os.Geteuid()) {
		t.Skip("needs root to become another user")
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), asUserVar+"="+args)
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	return cmd
}

// TestPermissions shows that the kernel checks the calling program against the
// owners and modes of the folder beneath, before the file system is asked.
func TestPermissions(t *testing.T) {
	dir, view := hostBy(t, Spawn, Options{})
	own := filepath.Join(dir, "own")
	listen(t, filepath.Join(dir, "open.sock"))
	listen(t, filepath.Join(dir, "closed.sock"))
	for _, err := range []error{
		os.Mkdir(own, 0o755), os.Chown(own, nobody, nobody),
		os.Chmod(filepath.Join(dir, "open.sock"), 0o666),
		os.Chmod(filepath.Join(dir, "closed.sock"), 0o600),
	} {
		if err != nil {
			t.Skip(err)
		}
	}
	out, err := again(t, nobody, "probe "+view).Output()
	if err != nil {
		t.Fatal(err)
	}
	want := `connect open: connection refused
connect closed: permission denied
bind in own: operation not supported
bind in other's: permission denied
write in own: <nil>
write in other's: permission denied
`
	if got := string(out); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(own, "f"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Uid != nobody || st.Gid != nobody {
		t.Errorf("file made in the view belongs to %d:%d, want %d", st.Uid, st.Gid, nobody)
	}
}

// TestWorkingFolder starts programs in the view, which Mount forbids.
func TestWorkingFolder(t *testing.T) {
	_, view := hostBy(t, Spawn, Options{})
	for range 20 {
		cmd := exec.CommandContext(t.Context(), "pwd")
		cmd.Dir = view
		out, err := cmd.Output()
		if got := strings.TrimSpace(string(out)); err != nil || got != view {
			t.Fatalf("pwd = %q, %v, want %q", got, err, view)
		}
	}
}

func TestAsOrdinaryUser(t *testing.T) {
	needFuse(t)
	if _, err := exec.LookPath("fusermount3"); err != nil {
		t.Skip(err)
	}
	uid := uint32(os.Geteuid())
	// udev makes the device so; a bare container often has it for root alone.
	if st, err := os.Stat("/dev/fuse"); uid == 0 && (err != nil || st.Mode()&0o006 != 0o006) {
		t.Skip("/dev/fuse is not for every user")
	}
	dir, view := folder(t, "dir"), folder(t, "view")
	if uid == 0 {
		uid = nobody
		for _, p := range []string{dir, view} {
			if err := os.Chown(p, nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
	}
	out, err := again(t, uid, "keep "+dir+" "+view).Output()
	if got, want := string(out), "mounted operation not supported\nunmounted\n"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if mounted(t, view) {
		t.Errorf("%s is still mounted", view)
	}
}

// TestDeadOwner kills the process that spawned a view; the view goes away.
func TestDeadOwner(t *testing.T) {
	needFuse(t)
	dir, view := folder(t, "dir"), folder(t, "view")
	cmd := again(t, uint32(os.Geteuid()), "keep "+dir+" "+view)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || !mounted(t, view) {
		t.Errorf("not mounted: %q, %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	for end := time.Now().Add(10 * time.Second); mounted(t, view); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s is still mounted 10 s after its owner died", view)
		}
	}
}

// TestUnmountBusy takes a view away from under an open file.
func TestUnmountBusy(t *testing.T) {
	needFuse(t)
	dir, view := folder(t, "dir"), folder(t, "view")
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Spawn(dir, view, Options{})
	if err != nil {
		t.Fatal(err)
	}
	user, err := os.Open(filepath.Join(view, "f"))
	if err != nil {
		t.Error(err)
	} else {
		defer user.Close()
	}
	done := make(chan error, 1)
	go func() { done <- f.Unmount() }()
	for end := time.Now().Add(5 * time.Second); mounted(t, view) && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if mounted(t, view) {
		t.Errorf("busy %s is still mounted", view)
	}
	user.Close()
	if err := <-done; err != nil {
		t.Errorf("Unmount after the user ended: %v", err)
	}
}
