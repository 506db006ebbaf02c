//go:build linux

package mount

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// folders are a folder, the view of it, and another one beside it to compare
// with.
type folders struct{ beneath, view, bare string }

func newFolders(t testing.TB, by uint32) folders {
	t.Helper()
	f, _ := newView(t, by)
	return f
}

// newView makes folders and mounts the view, under the account by.
func newView(t testing.TB, by uint32) (folders, *rig.Mount) {
	t.Helper()
	f := bareFolders(t, by)
	return f, f.mount(t, by)
}

// bareFolders makes folders and mounts nothing.
func bareFolders(t testing.TB, by uint32) folders {
	t.Helper()
	if by != 0 && os.Geteuid() != 0 {
		t.Skip("needs root for another account")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip(err)
	}
	dir := rig.Dir(t)
	f := folders{filepath.Join(dir, "host"), filepath.Join(dir, "view"), filepath.Join(dir, "bare")}
	for _, d := range []string{f.beneath, f.view, f.bare} {
		if err := errors.Join(os.Mkdir(d, 0o755), os.Chown(d, int(by), int(by))); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// mount mounts the view.
func (f folders) mount(t testing.TB, by uint32) *rig.Mount {
	t.Helper()
	m := f.command(t, by)
	m.Start()
	return m
}

// command is what mounts the view.
func (f folders) command(t testing.TB, by uint32) *rig.Mount {
	t.Helper()
	return rig.NewMount(t, f.view, by, rig.Binary(t), "mount", "--foreground", "-v", "--embed", "C="+f.beneath+":"+f.view, f.view)
}

// A posix is a folder in which calls are tried; what comes of each is noted.
type posix struct {
	root string
	log  []string
}

func (p *posix) at(name string) string { return filepath.Join(p.root, name) }

// note writes down what came of a call; the names of errno are the same
// everywhere.
func (p *posix) note(what string, err error, more ...any) {
	line := what
	var e unix.Errno
	switch {
	case errors.As(err, &e):
		line += ": " + unix.ErrnoName(e)
	case err != nil:
		line += ": " + err.Error()
	default:
		line += ": ok"
	}
	p.log = append(p.log, strings.TrimSpace(fmt.Sprintln(append([]any{line}, more...)...)))
}

// stat notes the attributes of a file that don't depend on where it is.
func (p *posix) stat(name string) {
	var st unix.Stat_t
	err := unix.Lstat(p.at(name), &st)
	p.note("stat "+name, err, fmt.Sprintf("%o", st.Mode), st.Nlink, st.Uid, st.Gid, st.Size, st.Rdev, st.Blocks)
}

func (p *posix) fd(name string, flags int, mode uint32) int {
	fd, err := unix.Open(p.at(name), flags|unix.O_CLOEXEC, mode)
	p.note(fmt.Sprintf("open %s %x", name, flags), err)
	return fd
}

// calls are POSIX's promises, tried one by one.
var calls = []struct {
	name string
	do   func(*posix)
}{
	{"create", func(p *posix) {
		old := unix.Umask(0o027)
		defer unix.Umask(old)
		fd := p.fd("f", unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o666)
		p.stat("f")
		unix.Close(fd)
		p.fd("f", unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o666)
		p.note("mkdir", unix.Mkdir(p.at("d"), 0o777))
		p.note("mkdir again", unix.Mkdir(p.at("d"), 0o777))
		p.note("fifo", unix.Mkfifo(p.at("p"), 0o666))
		p.note("symlink", unix.Symlink("f", p.at("l")))
		p.note("node", unix.Mknod(p.at("n"), unix.S_IFREG|0o666, 0))
		for _, n := range []string{"d", "p", "l", "n"} {
			p.stat(n)
		}
		p.note("in a file", unix.Mkdir(p.at("f/x"), 0o777))
		p.note("in nothing", unix.Mkdir(p.at("none/x"), 0o777))
		p.note("long name", unix.Mkdir(p.at(strings.Repeat("n", 256)), 0o777))
		p.note("longest name", unix.Mkdir(p.at(strings.Repeat("n", 255)), 0o777))
		p.fd("d", unix.O_WRONLY, 0)
		p.fd("l", unix.O_RDONLY|unix.O_NOFOLLOW, 0)
		p.fd("f", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		p.fd("new/", unix.O_CREAT|unix.O_RDWR, 0o666)
	}},
	{"rename", func(p *posix) {
		for _, n := range []string{"a", "b"} {
			p.note("write", os.WriteFile(p.at(n), []byte(n), 0o644))
		}
		p.note("mkdir", errors.Join(unix.Mkdir(p.at("d"), 0o755), unix.Mkdir(p.at("e"), 0o755), unix.Mkdir(p.at("d/in"), 0o755)))
		p.note("noreplace", unix.Renameat2(unix.AT_FDCWD, p.at("a"), unix.AT_FDCWD, p.at("b"), unix.RENAME_NOREPLACE))
		p.note("exchange", unix.Renameat2(unix.AT_FDCWD, p.at("a"), unix.AT_FDCWD, p.at("b"), unix.RENAME_EXCHANGE))
		b, err := os.ReadFile(p.at("a"))
		p.note("read", err, string(b))
		p.note("replace", unix.Rename(p.at("a"), p.at("b")))
		b, err = os.ReadFile(p.at("b"))
		p.note("read", err, string(b))
		p.note("file over folder", unix.Rename(p.at("b"), p.at("d")))
		p.note("folder over file", unix.Rename(p.at("d"), p.at("b")))
		p.note("folder over full folder", unix.Rename(p.at("e"), p.at("d")))
		p.note("folder over empty folder", unix.Rename(p.at("d"), p.at("e")))
		p.note("into itself", unix.Rename(p.at("e"), p.at("e/in/x")))
		p.note("missing", unix.Rename(p.at("none"), p.at("x")))
		p.note("exchange missing", unix.Renameat2(unix.AT_FDCWD, p.at("b"), unix.AT_FDCWD, p.at("x"), unix.RENAME_EXCHANGE))
		p.stat("e")
	}},
	{"link", func(p *posix) {
		p.note("write", os.WriteFile(p.at("a"), []byte("text"), 0o644))
		p.note("link", unix.Link(p.at("a"), p.at("b")))
		p.note("link again", unix.Link(p.at("a"), p.at("b")))
		p.stat("a")
		p.note("chmod", unix.Chmod(p.at("b"), 0o600))
		p.stat("a")
		p.note("symlink", unix.Symlink("a", p.at("s")))
		p.note("link of a link", unix.Linkat(unix.AT_FDCWD, p.at("s"), unix.AT_FDCWD, p.at("s2"), 0))
		p.stat("s2")
		p.note("link of a folder", errors.Join(unix.Mkdir(p.at("d"), 0o755), unix.Link(p.at("d"), p.at("d2"))))
		p.note("unlink", unix.Unlink(p.at("a")))
		b, err := os.ReadFile(p.at("b"))
		p.note("read", err, string(b))
		p.stat("b")
		target, err := os.Readlink(p.at("s"))
		p.note("readlink", err, target)
		long := strings.Repeat("x/", 1500)
		p.note("long link", unix.Symlink(long, p.at("long")))
		target, err = os.Readlink(p.at("long"))
		p.note("readlink", err, target == long)
	}},
	{"unlink", func(p *posix) {
		fd := p.fd("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		p.note("unlink", unix.Unlink(p.at("f")))
		n, err := unix.Write(fd, []byte("after"))
		p.note("write", err, n)
		b := make([]byte, 9)
		n, err = unix.Pread(fd, b, 0)
		p.note("read", err, string(b[:max(n, 0)]))
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		p.note("fstat", err, st.Nlink, st.Size)
		p.note("fchmod", unix.Fchmod(fd, 0o600))
		p.note("ftruncate", unix.Ftruncate(fd, 2))
		err = unix.Fstat(fd, &st)
		p.note("fstat", err, fmt.Sprintf("%o", st.Mode), st.Size)
		unix.Close(fd)
		p.note("missing", unix.Unlink(p.at("f")))
		p.note("folder", errors.Join(unix.Mkdir(p.at("d"), 0o755), unix.Unlink(p.at("d"))))
		p.note("rmdir of full", errors.Join(unix.Mkdir(p.at("d/e"), 0o755), unix.Rmdir(p.at("d"))))
		p.note("rmdir", errors.Join(unix.Rmdir(p.at("d/e")), unix.Rmdir(p.at("d"))))
	}},
	{"tmpfile", func(p *posix) {
		fd := p.fd(".", unix.O_TMPFILE|unix.O_RDWR, 0o644)
		n, err := unix.Write(fd, []byte("hidden"))
		p.note("write", err, n)
		p.note("link", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, p.at("t"), unix.AT_SYMLINK_FOLLOW))
		p.stat("t")
		unix.Close(fd)
		b, err := os.ReadFile(p.at("t"))
		p.note("read", err, string(b))
	}},
	{"data", func(p *posix) {
		fd := p.fd("f", unix.O_CREAT|unix.O_RDWR|unix.O_APPEND, 0o644)
		for _, text := range []string{"one", "two"} {
			_, err := unix.Write(fd, []byte(text))
			p.note("append", err)
		}
		p.note("truncate", unix.Truncate(p.at("f"), 1<<20))
		p.stat("f")
		off, err := unix.Seek(fd, 0, unix.SEEK_HOLE)
		p.note("hole", err, off)
		_, err = unix.Seek(fd, 1<<19, unix.SEEK_DATA)
		p.note("no data", err)
		p.note("allocate", unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, 1<<16))
		p.note("punch", unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, 0, 4096))
		p.note("sync", errors.Join(unix.Fsync(fd), unix.Fdatasync(fd)))
		p.stat("f")
		g := p.fd("g", unix.O_CREAT|unix.O_RDWR, 0o644)
		_, err = unix.Pwrite(fd, bytes.Repeat([]byte("y"), 9000), 0)
		p.note("write", err)
		n, err := unix.CopyFileRange(fd, new(int64), g, new(int64), 8000, 0)
		p.note("copy", err, n)
		p.stat("g")
		m, err := unix.Mmap(g, 0, 8000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		p.note("mmap", err)
		if err == nil {
			copy(m[4090:], "across pages")
			p.note("msync", unix.Msync(m, unix.MS_SYNC))
			p.note("munmap", unix.Munmap(m))
		}
		b, err := os.ReadFile(p.at("g"))
		p.note("read", err, fmt.Sprintf("%x", sha256.Sum256(b)))
		unix.Close(fd)
		unix.Close(g)
		p.fd("g", unix.O_TRUNC|unix.O_WRONLY, 0)
		p.stat("g")
		p.note("too large", unix.Truncate(p.at("g"), -1))
	}},
	{"locks", func(p *posix) {
		a := p.fd("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		b := p.fd("f", unix.O_RDWR, 0)
		p.note("flock", unix.Flock(a, unix.LOCK_EX|unix.LOCK_NB))
		p.note("flock again", unix.Flock(b, unix.LOCK_EX|unix.LOCK_NB))
		p.note("unlock", unix.Flock(a, unix.LOCK_UN))
		p.note("flock again", unix.Flock(b, unix.LOCK_SH|unix.LOCK_NB))
		lock := unix.Flock_t{Type: unix.F_WRLCK, Start: 10, Len: 10}
		p.note("fcntl", unix.FcntlFlock(uintptr(a), unix.F_OFD_SETLK, &lock))
		lock = unix.Flock_t{Type: unix.F_RDLCK, Start: 15, Len: 1}
		p.note("fcntl again", unix.FcntlFlock(uintptr(b), unix.F_OFD_SETLK, &lock))
		lock = unix.Flock_t{Type: unix.F_RDLCK, Start: 20, Len: 1}
		p.note("fcntl beside", unix.FcntlFlock(uintptr(b), unix.F_OFD_SETLK, &lock))
	}},
	{"attributes", func(p *posix) {
		p.note("write", os.WriteFile(p.at("f"), []byte("x"), 0o644))
		ts := []unix.Timespec{{Sec: 1e9, Nsec: 123456789}, {Sec: -5, Nsec: 7}}
		p.note("utimens", unix.UtimesNanoAt(unix.AT_FDCWD, p.at("f"), ts, 0))
		var st unix.Stat_t
		err := unix.Stat(p.at("f"), &st)
		p.note("times", err, st.Atim, st.Mtim)
		p.note("symlink", unix.Symlink("none", p.at("l")))
		p.note("utimens of a link", unix.UtimesNanoAt(unix.AT_FDCWD, p.at("l"), ts, unix.AT_SYMLINK_NOFOLLOW))
		err = unix.Lstat(p.at("l"), &st)
		p.note("times", err, st.Mtim)
		for _, m := range []uint32{0, 0o7777, 0o4755, 0o2755, 0o1777} {
			p.note("chmod", unix.Chmod(p.at("f"), m))
			p.stat("f")
		}
		p.note("suid", unix.Chmod(p.at("f"), 0o4755))
		p.note("write takes suid", os.WriteFile(p.at("f"), []byte("y"), 0))
		p.note("chown of a link", unix.Lchown(p.at("l"), os.Getuid(), os.Getgid()))
		p.stat("l")
		p.note("chown to another", unix.Chown(p.at("f"), 12345, 54321))
		p.stat("f")
		p.note("setxattr", unix.Setxattr(p.at("f"), "user.name", []byte("value"), 0))
		p.note("setxattr, exists", unix.Setxattr(p.at("f"), "user.name", []byte("value"), unix.XATTR_CREATE))
		b := make([]byte, 64)
		n, err := unix.Getxattr(p.at("f"), "user.name", b)
		p.note("getxattr", err, string(b[:max(n, 0)]))
		_, err = unix.Getxattr(p.at("f"), "user.name", b[:2])
		p.note("getxattr, no room", err)
		n, err = unix.Getxattr(p.at("f"), "user.name", nil)
		p.note("getxattr, size", err, n)
		_, err = unix.Getxattr(p.at("f"), "user.none", b)
		p.note("getxattr, none", err)
		n, err = unix.Listxattr(p.at("f"), b)
		p.note("listxattr", err, string(b[:max(n, 0)]))
		p.note("removexattr", unix.Removexattr(p.at("f"), "user.name"))
		p.note("setxattr, space", unix.Setxattr(p.at("f"), "nothing.name", []byte("value"), 0))
		p.note("setgid folder", errors.Join(unix.Mkdir(p.at("d"), 0o755), unix.Chown(p.at("d"), -1, os.Getgid()), unix.Chmod(p.at("d"), 0o2775)))
		p.note("within", errors.Join(unix.Mkdir(p.at("d/e"), 0o755), os.WriteFile(p.at("d/f"), nil, 0o644)))
		p.stat("d/e")
		p.stat("d/f")
	}},
	{"listing", func(p *posix) {
		p.note("mkdir", unix.Mkdir(p.at("d"), 0o755))
		for i := range 300 {
			if err := os.WriteFile(p.at(fmt.Sprintf("d/file%03d", i)), nil, 0o644); err != nil {
				p.note("write", err)
			}
		}
		names, err := os.ReadDir(p.at("d"))
		p.note("list", err, len(names))
		for _, e := range names[:3] {
			p.note(e.Name()+" "+e.Type().String(), nil)
		}
		// A position that telldir gave leads back to where it was.
		fd := p.fd("d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		first, second := make([]byte, 2048), make([]byte, 2048)
		n, _ := unix.Getdents(fd, first)
		at, err := unix.Seek(fd, 0, unix.SEEK_CUR)
		n2, _ := unix.Getdents(fd, second)
		again := slices.Clone(second[:max(n2, 0)])
		_, err2 := unix.Seek(fd, at, unix.SEEK_SET)
		n3, _ := unix.Getdents(fd, second)
		p.note("seek", errors.Join(err, err2), n > 0, n2 == n3 && bytes.Equal(again, second[:max(n3, 0)]))
		_, err = unix.Seek(fd, 0, unix.SEEK_SET)
		n, _ = unix.Getdents(fd, second)
		p.note("rewind", err, bytes.Equal(first[:n], second[:n]))
		unix.Close(fd)
		p.note("removeall", os.RemoveAll(p.at("d")))
		// To list a folder takes no right to search it.
		p.note("folder", errors.Join(unix.Mkdir(p.at("r"), 0o755), os.WriteFile(p.at("r/f"), nil, 0o644), unix.Chmod(p.at("r"), 0o444)))
		names, err = os.ReadDir(p.at("r"))
		p.note("list what can't be searched", err, len(names))
		p.stat("r/f")
		p.note("chmod", unix.Chmod(p.at("r"), 0o755))
	}},
}

// TestPOSIX tries calls in a folder and in a view and compares.
func TestPOSIX(t *testing.T) {
	for _, acc := range []struct {
		name string
		uid  uint32
	}{{"root", 0}, {"own", rig.Nobody}} {
		t.Run(acc.name, func(t *testing.T) {
			f := newFolders(t, acc.uid)
			for _, c := range calls {
				t.Run(c.name, func(t *testing.T) {
					want := tryAs(t, acc.uid, f.bare, c.name)
					if got := tryAs(t, acc.uid, f.view, c.name); !cmp.Equal(want, got) {
						t.Errorf("in the folder (-) is not as in the view (+):\n%s", cmp.Diff(want, got))
					}
				})
			}
		})
	}
}

// callsVar has a copy of the test binary make calls in os.Args[1], which its
// value names, and print what came of them.
const callsVar = "DRVSOCK_MOUNT_CALLS"

// tryAs makes the calls that name says under an account, in a new folder.
func tryAs(t *testing.T, uid uint32, dir, name string) []string {
	t.Helper()
	dir = filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", dir)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), callsVar+"="+name)
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		cmd.Path = readable(t)
	}
	out, _ := rig.Output(t, cmd, limit)
	return strings.Split(out, "\n")
}

// readable is a copy of the test binary that every account may run.
func readable(t *testing.T) string {
	t.Helper()
	file := filepath.Join(rig.Dir(t), "test")
	b, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(file, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// makeCalls is the copy.
func makeCalls() {
	name := os.Getenv(callsVar)
	if name == "" {
		return
	}
	if name == "random" {
		if err := random(os.Args[1], os.Args[2], os.Args[3]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	p := &posix{root: os.Args[1]}
	if err := os.Mkdir(p.root, 0o755); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for _, c := range calls {
		if c.name == name {
			c.do(p)
		}
	}
	fmt.Println(strings.Join(p.log, "\n"))
	os.Exit(0)
}

// TestOwners has other accounts make files in a view of root's: they belong to
// their makers, and rights are checked as everywhere.
func TestOwners(t *testing.T) {
	f := newFolders(t, 0)
	script := `
umask 022
for d in own group sticky closed; do cd "$1/$d" 2>/dev/null || { echo "$d: no way in"; continue; }
echo x > file; mkdir sub; ln -s file link; mkfifo fifo; stat -c '%n %A %U:%G %u:%g' file sub link fifo
umask 077; echo x > private; stat -c '%n %a' private; umask 022
rm theirs && echo removed; mv theirs2 mine && echo moved; cat secret; chmod 777 theirs2 && echo changed; done 2>&1`
	prepare := func(root string) {
		for dir, mode := range map[string]os.FileMode{"own": 0o755, "group": 0o2775, "sticky": 0o1777, "closed": 0o700} {
			d := filepath.Join(root, dir)
			uid, gid := 0, 0
			switch dir {
			case "own":
				uid, gid = rig.User, rig.User
			case "group":
				gid = 44003
			}
			err := os.Mkdir(d, 0o700)
			for _, n := range []string{"theirs", "theirs2"} {
				err = errors.Join(err, os.WriteFile(filepath.Join(d, n), nil, 0o644))
			}
			err = errors.Join(err, os.WriteFile(filepath.Join(d, "secret"), []byte("s"), 0o600), os.Chown(d, uid, gid), syscall.Chmod(d, uint32(mode.Perm())|map[string]uint32{"group": 0o2000, "sticky": 0o1000}[dir]))
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	run := func(root string) string {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", script, "sh", root)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: rig.User, Gid: rig.User, Groups: []uint32{44003}}}
		cmd.Dir = "/"
		out, _ := rig.Output(t, cmd, limit)
		return strings.ReplaceAll(out, root, "ROOT")
	}
	prepare(f.bare)
	prepare(f.view)
	if d := cmp.Diff(run(f.bare), run(f.view)); d != "" {
		t.Error(d)
	}
}
