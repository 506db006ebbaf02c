//go:build linux

package lookup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// childEnv makes this test binary the task whose paths are resolved: it says
// what the kernel itself makes of each path that it reads.
const childEnv = "DRVSOCK_LOOKUP_CHILD"

// childRoot is the folder that the child makes its root.
const childRoot = "DRVSOCK_LOOKUP_ROOT"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		oracle()
		return
	}
	os.Exit(m.Run())
}

// oracle answers "s PATH" with the outcome of stat, "l PATH" of lstat and
// "w PATH" of a question for write permission, all with effective ids.
func oracle() {
	runtime.LockOSThread()
	if dir := os.Getenv(childRoot); dir != "" {
		if err := errors.Join(unix.Chroot(dir), unix.Chdir("/")); err != nil {
			fmt.Println(err)
			return
		}
	}
	fmt.Println(unix.Gettid())
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		kind, path := in.Text()[:1], in.Text()[2:]
		var st unix.Stat_t
		var err error
		switch kind {
		case "s":
			err = unix.Stat(path, &st)
		case "l":
			err = unix.Lstat(path, &st)
		case "w":
			err = unix.Faccessat2(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS)
		}
		fmt.Println(outcome(err, &st))
	}
}

func outcome(err error, st *unix.Stat_t) string {
	var e unix.Errno
	switch {
	case errors.As(err, &e):
		return unix.ErrnoName(e)
	case err != nil:
		return err.Error()
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

type child struct {
	t   *testing.T
	tid int
	in  io.Writer
	out *bufio.Reader
}

func startChild(t *testing.T, dir, root string, attr *syscall.SysProcAttr) *child {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Dir, cmd.SysProcAttr, cmd.Stderr = dir, attr, os.Stderr
	cmd.Env = append(os.Environ(), childEnv+"=1", childRoot+"="+root)
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
	t.Cleanup(func() {
		_ = in.(io.Closer).Close()
		_ = cmd.Wait()
	})
	c := &child{t: t, in: in, out: bufio.NewReader(out)}
	c.tid, err = strconv.Atoi(c.line())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *child) line() string {
	c.t.Helper()
	s, err := c.out.ReadString('\n')
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.TrimSuffix(s, "\n")
}

func (c *child) ask(kind, path string) string {
	c.t.Helper()
	fmt.Fprintf(c.in, "%s %s\n", kind, path)
	return c.line()
}

// tree makes the folders and links that the paths below lead through.
func tree(t *testing.T) string {
	t.Helper()
	// Not t.TempDir, whose parents another user can't search.
	dir, err := os.MkdirTemp("/tmp", "lookup")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"a/b/c", "closed/in", "readonly"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"a/file", "a/b/c/deep", "closed/in/x", "readonly/x"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	links := map[string]string{
		"a/abs": "/a/b", "a/rel": "b/c", "a/up": "../a/b", "loop1": "loop2", "loop2": "loop1",
		"a/dangling": "nowhere", "a/tofile": "file", "a/slash": "b/", "long": strings.Repeat("a/../", 300) + "a/file",
		"a/self": "/proc/self/cwd/a",
	}
	for name, to := range links {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for d, mode := range map[string]os.FileMode{".": 0o755, "closed": 0o700, "readonly": 0o555, "readonly/x": 0o444} {
		if err := os.Chmod(filepath.Join(dir, d), mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var paths = []string{
	"a/file", "./a//file", "a/./b/../file", "a/b/c/deep", "a/rel/deep", "a/up/c/deep", "a/tofile", "a/file/", "a/file/x",
	"a/b/", "a/b/.", "a/b/..", ".", "..", "/", "//", "/.", "/..", "nowhere", "nowhere/x", "nowhere/", "a/dangling",
	"a/dangling/x", "loop1", "loop1/x", "a/slash/c/deep", "a/slash", "long", "closed/in/x", "closed/in", "closed/none",
	"readonly/x", "readonly/none", strings.Repeat("n", 255), strings.Repeat("n", 256), "a/" + strings.Repeat("n", 256) + "/x",
	"/proc/self/cwd/a/file", "/proc/self/cwd", "/proc/self/root", "/proc/thread-self/cwd/a/b", "/proc/self/fd/none", "a/self/file",
	"../../../../../../../../../../a/file", "a/abs/c", "/a/file", "a/rel/../../file",
}

// TestResolve compares what the walk finds with what the kernel finds for the
// task itself.
func TestResolve(t *testing.T) {
	dir := tree(t)
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
	member := &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{0}}
	tests := []struct {
		name         string
		attr         *syscall.SysProcAttr
		root, chroot bool
	}{
		{"same user", &syscall.SysProcAttr{}, false, false},
		{"another user", &syscall.SysProcAttr{Credential: nobody}, true, false},
		{"supplementary group", &syscall.SysProcAttr{Credential: member}, true, false},
		{"other root folder", &syscall.SysProcAttr{}, true, true},
		{"own mount namespace", &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}, true, false},
		{"own user namespace", &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65534, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65534, Size: 1}}}, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.root && os.Geteuid() != 0 {
				t.Skip("needs root: sudo go test ./internal/lookup")
			}
			root := ""
			if tt.chroot {
				root = dir
				mountProc(t, dir)
			}
			c := startChild(t, dir, root, tt.attr)
			task, err := ReadTask(c.tid)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range paths {
				for _, follow := range []bool{true, false} {
					kind := map[bool]string{true: "s", false: "l"}[follow]
					want := c.ask(kind, p)
					got := resolved(task, p, follow)
					if got != want {
						t.Errorf("Resolve(%.40q, follow %v): got %s, want %s", p, follow, got, want)
					}
				}
				checkGlance(t, task, p)
				want, got := c.ask("w", p), writable(task, p)
				if want != "ENOENT" && (want == "0:0") != (got == "0:0") {
					t.Errorf("May(%.40q, write): got %s, want %s", p, got, want)
				}
			}
		})
	}
}

// mountProc gives the new root a /proc.
func mountProc(t *testing.T, dir string) {
	t.Helper()
	proc := filepath.Join(dir, "proc")
	if err := os.Mkdir(proc, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("proc", proc, "proc", 0, ""); err != nil {
		t.Skip("mount of /proc refused:", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(proc, unix.MNT_DETACH) })
}

func resolved(task *Task, path string, follow bool) string {
	p, err := task.Resolve([]byte(path), follow)
	if err != nil {
		return outcome(err, nil)
	}
	defer p.Close()
	if !p.Exists() {
		return "ENOENT"
	}
	return outcome(nil, &p.Stat)
}

func writable(task *Task, path string) string {
	p, err := task.Resolve([]byte(path), true)
	if err != nil {
		return outcome(err, nil)
	}
	defer p.Close()
	if !p.Exists() {
		return "ENOENT"
	}
	return outcome(task.May(p.Target, unix.W_OK), &unix.Stat_t{})
}

// checkGlance holds Glance to what Resolve finds: it may know less, and nothing
// else.
func checkGlance(t *testing.T, task *Task, path string) {
	t.Helper()
	folder, ok := Glance(task.TID, []byte(path))
	if !ok {
		return
	}
	defer unix.Close(folder)
	p, err := task.Resolve([]byte(path), true)
	if err != nil {
		return // with the rights of the task
	}
	defer p.Close()
	if same, err := sameFolder(folder, p.Parent); err != nil || !same {
		t.Errorf("Glance(%.40q): another folder than Resolve finds (%v)", path, err)
	}
}

// TestGlance wants an answer where one is easy, and none where it isn't.
func TestGlance(t *testing.T) {
	dir := tree(t)
	c := startChild(t, dir, "", nil)
	for path, want := range map[string]bool{
		"a/file": true, "new": true, dir + "/a/b/new": true, "a/rel/new": true, "a/../new": true, "/new": true,
		"": false, "/": false, ".": false, "a/..": false, "a/b/": false, "a/tofile": false, "a/dangling": false,
		"none/new": false, "/proc/self/cwd/new": false, "a/self/new": false, "a/file/new": false,
	} {
		folder, ok := Glance(c.tid, []byte(path))
		if ok {
			_ = unix.Close(folder)
		}
		if ok != want {
			t.Errorf("Glance(%q): got %v, want %v", path, ok, want)
		}
	}
}

func BenchmarkGlance(b *testing.B) {
	tid := unix.Gettid()
	for b.Loop() {
		fd, ok := Glance(tid, []byte("/usr/lib/x"))
		if ok {
			_ = unix.Close(fd)
		}
	}
}

func TestResolveParent(t *testing.T) {
	dir := tree(t)
	c := startChild(t, dir, "", nil)
	task, err := ReadTask(c.tid)
	if err != nil {
		t.Fatal(err)
	}
	p, err := task.Resolve([]byte("a/rel/new.sock"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var want, got unix.Stat_t
	if err := unix.Stat(dir+"/a/b/c", &want); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fstat(p.Parent, &got); err != nil {
		t.Fatal(err)
	}
	if p.Exists() || string(p.Base) != "new.sock" || got.Ino != want.Ino {
		t.Errorf("got %q in inode %d (exists %v), want new.sock in inode %d", p.Base, got.Ino, p.Exists(), want.Ino)
	}
}

// TestNoDescriptorLeft resolves everything again and counts.
func TestNoDescriptorLeft(t *testing.T) {
	dir := tree(t)
	c := startChild(t, dir, "", nil)
	task, err := ReadTask(c.tid)
	if err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	for _, p := range paths {
		resolved(task, p, true)
		resolved(task, p, false)
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors open, want %d", after, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func TestParseStatus(t *testing.T) {
	full := "Name:\tx y\nUmask:\t0027\nTgid:\t7\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t4 20 \nCapEff:\t000001ffffffffff\n"
	want := Task{Name: "x y", Umask: 0o27, TGID: 7, EUID: 2, FSUID: 4, EGID: 6, FSGID: 8, Groups: []uint32{4, 20}, Caps: 1<<41 - 1}
	var got Task
	if err := got.parseStatus([]byte(full)); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{"", "Uid:\t1\n", strings.Replace(full, "0027", "9", 1), strings.Replace(full, "1\t2\t3\t4", "1\t2", 1)} {
		if err := new(Task).parseStatus([]byte(bad)); err == nil {
			t.Errorf("parseStatus(%q): got nil, want an error", bad)
		}
	}
}

func FuzzParseStatus(f *testing.F) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("Name:\nUid:\t1\t2\t3\t4\nCapEff:\n"))
	f.Fuzz(func(_ *testing.T, b []byte) { _ = new(Task).parseStatus(b) })
}

func BenchmarkReadTask(b *testing.B) {
	for b.Loop() {
		if _, err := ReadTask(unix.Gettid()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkResolve(b *testing.B) {
	for b.Loop() {
		task, err := ReadTask(unix.Gettid())
		if err != nil {
			b.Fatal(err)
		}
		p, err := task.Resolve([]byte("/usr/lib/os-release"), true)
		if err != nil {
			b.Fatal(err)
		}
		p.Close()
	}
}
