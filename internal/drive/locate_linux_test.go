package drive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
)

const namespaceEnv = "DRIVE_TEST_NAMESPACE"

// inNamespace runs the calling test in a mount namespace of its own, in which it
// is root: it starts it again in a child, and returns true in there.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(namespaceEnv) == t.Name() {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), namespaceEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, fs.ErrPermission) {
		t.Skipf("no mount namespace (%v); try as root, or sysctl kernel.unprivileged_userns_clone=1", err)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("in the namespace: %v\n%s", err, out)
	}
	return false
}

func mkdir(t *testing.T, path string) string {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func mount(t *testing.T, source, target, fstype string, flags uintptr) {
	t.Helper()
	if err := unix.Mount(source, target, fstype, flags, ""); err != nil {
		t.Fatalf("mount %s at %s: %v", source, target, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
}

func openPath(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func openFDs(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func newMounts(t testing.TB) *Mounts {
	t.Helper()
	m, err := OpenMounts()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func newResolver(t testing.TB, overrides ...Override) *Resolver {
	t.Helper()
	table, err := NewTable(TableConfig{Overrides: overrides})
	if err != nil {
		t.Fatal(err)
	}
	return NewResolver(table, newMounts(t))
}

func wantHost(t *testing.T, r *Resolver, fd, pid int, want string) {
	t.Helper()
	got, ok, err := r.Resolve(fd, pid)
	if err != nil || string(got) != want || ok != (want != "") {
		name, _ := linkOf(fd)
		t.Errorf("%s: got %q, %v, %v, want %q", name, got, ok, err, want)
	}
}

func TestResolve(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := t.TempDir()
	mount(t, "t", dir, "tmpfs", 0)
	c := mkdir(t, dir+"/view/c")
	deep := mkdir(t, c+"/a:b/x y\n/z (deleted)")
	mkdir(t, dir+"/view/cc")
	bound := mkdir(t, dir+"/bound")
	mount(t, c+"/a:b", bound, "", unix.MS_BIND)
	whole := mkdir(t, dir+"/whole")
	mount(t, dir, whole, "", unix.MS_BIND)
	foreign := mkdir(t, c+"/foreign")
	mount(t, "t", foreign, "tmpfs", 0)
	mkdir(t, foreign+"/in")
	self := os.Getpid()

	r := newResolver(t, Override{'C', c})
	for _, tt := range []struct{ path, want string }{
		{c, `C:\`},
		{deep, "C:\\a\uf03ab\\x y\uf00a\\z (deleted)"},
		{c + "/a:b/..", `C:\`},
		{dir + "/view", ""}, {dir + "/view/cc", ""}, {dir, ""}, {"/", ""}, {"/proc", ""},
		{bound, "C:\\a\uf03ab"},
		{bound + "/x y\n", "C:\\a\uf03ab\\x y\uf00a"},
		{whole, ""},
		{whole + "/view/c/a:b", "C:\\a\uf03ab"},
		{whole + "/view/c/foreign", `C:\foreign`}, // the bind isn't recursive: this is the folder below
		{foreign, ""}, {foreign + "/in", ""},
	} {
		wantHost(t, r, openPath(t, tt.path), self, tt.want)
	}

	t.Run("a mount made later hides", func(t *testing.T) {
		mkdir(t, c+"/later/in")
		wantHost(t, r, openPath(t, c+"/later/in"), self, `C:\later\in`)
		mount(t, "t", c+"/later", "tmpfs", 0)
		mkdir(t, c+"/later/in")
		wantHost(t, r, openPath(t, c+"/later/in"), self, "")
	})
	t.Run("folder above the mount renamed", func(t *testing.T) {
		up := mkdir(t, dir+"/up/m")
		mount(t, c, up, "", unix.MS_BIND)
		mkdir(t, c+"/in")
		fd := openPath(t, up+"/in")
		wantHost(t, r, fd, self, `C:\in`)
		if err := os.Rename(dir+"/up", dir+"/up2"); err != nil {
			t.Fatal(err)
		}
		wantHost(t, r, fd, self, `C:\in`)
		_ = unix.Unmount(dir+"/up2/m", unix.MNT_DETACH)
		// Detached, it is in no namespace.
		wantHost(t, r, fd, self, "")
	})
	t.Run("root of a bind mount renamed", func(t *testing.T) {
		old := mkdir(t, c+"/old/in")
		at := mkdir(t, dir+"/at")
		mount(t, c+"/old", at, "", unix.MS_BIND)
		fd := openPath(t, at+"/in")
		wantHost(t, r, fd, self, `C:\old\in`)
		if err := os.Rename(filepath.Dir(old), c+"/new"); err != nil {
			t.Fatal(err)
		}
		wantHost(t, r, fd, self, `C:\new\in`)
		wantHost(t, r, openPath(t, at), self, `C:\new`)
	})
	t.Run("deleted", func(t *testing.T) {
		gone := mkdir(t, c+"/gone")
		fd := openPath(t, gone)
		if err := os.Remove(gone); err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.Resolve(fd, self); !errors.Is(err, errno.ENOENT) {
			t.Errorf("error %v, want ENOENT", err)
		}
		// Neither does a folder of the very name that the kernel shows help.
		mkdir(t, c+"/gone (deleted)")
		if _, _, err := r.Resolve(fd, self); !errors.Is(err, errno.ENOENT) {
			t.Errorf("error %v, want ENOENT", err)
		}
	})
	t.Run("root of a bind mount deleted", func(t *testing.T) {
		gone := mkdir(t, c+"/gone2")
		at := mkdir(t, dir+"/at2")
		mount(t, gone, at, "", unix.MS_BIND)
		fd := openPath(t, at)
		if err := os.Remove(gone); err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.Resolve(fd, self); !errors.Is(err, errno.ENOENT) {
			t.Errorf("error %v, want ENOENT", err)
		}
	})
	t.Run("files", func(t *testing.T) {
		file := c + "/file"
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.Resolve(openPath(t, file), self); !errors.Is(err, errno.ENOTDIR) {
			t.Errorf("error %v, want ENOTDIR", err)
		}
		at := dir + "/file"
		if err := os.WriteFile(at, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		mount(t, file, at, "", unix.MS_BIND)
		wantHost(t, r, openPath(t, at), self, `C:\file`)
	})
	t.Run("too deep", func(t *testing.T) {
		fd := openPath(t, c)
		name := strings.Repeat("d", 250)
		for range 17 {
			if err := unix.Mkdirat(fd, name, 0o755); err != nil {
				t.Fatal(err)
			}
			next, err := unix.Openat(fd, name, unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Close(next) })
			fd = next
		}
		if _, _, err := r.Resolve(fd, self); !errors.Is(err, errno.ENAMETOOLONG) {
			t.Errorf("error %v, want ENAMETOOLONG", err)
		}
	})
	t.Run("other namespace and chroot", func(t *testing.T) {
		// The child mounts the view somewhere only it knows, and waits.
		mkdir(t, dir+"/theirs")
		mkdir(t, c+"/jail/in")
		cmd := exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c",
			`mount --bind "$0" "$1" && cd "$1/a:b" && echo ready && exec sleep 60`, c, dir+"/theirs")
		pid := startChild(t, cmd)
		fd := openPath(t, fmt.Sprintf("/proc/%d/cwd", pid))
		wantHost(t, r, fd, pid, "C:\\a\uf03ab")
		wantHost(t, r, fd, self, "") // nothing that we can reach
		wantHost(t, r, openPath(t, fmt.Sprintf("/proc/%d/root%s", pid, c)), pid, `C:\`)

		cmd = exec.Command("/proc/self/exe", "-test.run=^TestChild$")
		cmd.Env = append(os.Environ(), "DRIVE_TEST_CHROOT="+c+"/jail")
		pid = startChild(t, cmd)
		wantHost(t, r, openPath(t, fmt.Sprintf("/proc/%d/cwd", pid)), pid, `C:\jail\in`)
		wantHost(t, r, openPath(t, fmt.Sprintf("/proc/%d/root", pid)), pid, `C:\jail`)
	})
	t.Run("way up closed", func(t *testing.T) {
		shut := mkdir(t, c+"/shut/in")
		fd := openPath(t, shut)
		if err := os.Chmod(c+"/shut", 0); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(shut, 0); err != nil {
			t.Fatal(err)
		}
		withoutCapabilities(t, func() {
			if _, err := unix.Openat(fd, "..", unix.O_PATH, 0); err != unix.EACCES {
				t.Errorf("the way up gives %v, so this shows nothing", err)
			}
			wantHost(t, r, fd, self, `C:\shut\in`)
			// Without the mount point's name too, it is read anew.
			at, err := statNode(fd)
			if err != nil {
				t.Fatal(err)
			}
			got, err := pathInMount(fd, at, "/none")
			if want := strings.TrimPrefix(shut, dir+"/"); got != want || err != nil {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	})
	t.Run("both ways to the root", func(t *testing.T) {
		for _, path := range []string{deep, c, whole + "/view/c/a:b", bound + "/x y\n"} {
			fd := openPath(t, path)
			at, err := statNode(fd)
			if err != nil {
				t.Fatal(err)
			}
			m, ok := r.mounts.Lookup(at.mount)
			if !ok {
				t.Fatalf("%s is on no mount", path)
			}
			byName, err1 := rootAt(m.Point, at.mount)
			byWalk, err2 := rootOf(fd, at)
			if err1 != nil || err2 != nil {
				t.Fatalf("%s: %v, %v", path, err1, err2)
			}
			a, _ := statNode(byName)
			b, _ := statNode(byWalk)
			if a != b || !a.root {
				t.Errorf("%s: by name %+v, by walk %+v", path, a, b)
			}
			_, _ = unix.Close(byName), unix.Close(byWalk)
		}
	})
	t.Run("our own root inside of the mount", func(t *testing.T) {
		jail := mkdir(t, c+"/own/in")
		mkdir(t, c+"/own/proc")
		mount(t, "/proc", c+"/own/proc", "", unix.MS_BIND)
		fd, old := openPath(t, jail), openPath(t, "/")
		if err := unix.Chroot(c + "/own"); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := errors.Join(unix.Fchdir(old), unix.Chroot(".")); err != nil {
				t.Fatal(err)
			}
		}()
		at, err := statNode(fd)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := pathInMount(fd, at, "/none"); err != ErrUnknownMount {
			t.Errorf("got %q, %v, want %v", got, err, ErrUnknownMount)
		}
	})
}

// TestChild is the process of another test: it moves to another root and waits
// to be killed.
func TestChild(t *testing.T) {
	root := os.Getenv("DRIVE_TEST_CHROOT")
	if root == "" {
		t.Skip("only as another test's child")
	}
	if err := unix.Chroot(root); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chdir("/in"); err != nil {
		t.Fatal(err)
	}
	fmt.Println("ready")
	time.Sleep(time.Minute)
}

func startChild(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	buf := make([]byte, 6)
	if n, err := out.Read(buf); string(buf[:n]) != "ready\n" {
		t.Fatalf("child said %q, %v", buf[:n], err)
	}
	return cmd.Process.Pid
}

// withoutCapabilities runs f on a thread whose effective capabilities are off, so
// that modes count for root too.
func withoutCapabilities(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&hdr, &data[0]); err != nil {
			t.Error(err)
			return
		}
		data[0].Effective, data[1].Effective = 0, 0
		if err := unix.Capset(&hdr, &data[0]); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}
