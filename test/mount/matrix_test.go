//go:build linux

package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// The matrix is every call that takes a path with every kind of path that there
// is, by root and by a user: pjdfstest's way of asking, with the bare folder for
// the answers.

// plant makes the tree that the paths lead into, which belongs to uid.
func plant(root string, uid int) error {
	mine := func(name string, mode os.FileMode, err error) error {
		return errors.Join(err, os.Chmod(name, mode), os.Lchown(name, uid, uid))
	}
	at := func(name string) string { return filepath.Join(root, name) }
	file := func(name string) error { return os.WriteFile(at(name), []byte("text"), 0o644) }
	if err := mine(root, 0o755, os.Mkdir(root, 0o755)); err != nil {
		return err
	}
	for _, d := range []string{"dir", "full", "readonly", "closed", "sticky", "setgid"} {
		if err := mine(at(d), 0o755, os.Mkdir(at(d), 0o755)); err != nil {
			return err
		}
	}
	for _, f := range []string{"file", "file2", "full/in", "readonly/f", "closed/f", "sticky/mine", "suid"} {
		if err := mine(at(f), 0o644, file(f)); err != nil {
			return err
		}
	}
	return errors.Join(file("other"), file("secret"), os.Chmod(at("secret"), 0o600), file("sticky/theirs"),
		os.Symlink("file", at("link")), os.Symlink("none", at("dangling")), os.Symlink("dir", at("dirlink")),
		os.Symlink("loop2", at("loop1")), os.Symlink("loop1", at("loop2")), mine(at("fifo"), 0o644, unix.Mkfifo(at("fifo"), 0o644)),
		os.Chmod(at("readonly"), 0o555), os.Lchown(at("closed"), 0, 0), os.Chmod(at("closed"), 0o700),
		os.Lchown(at("sticky"), 0, 0), unix.Chmod(at("sticky"), 0o1777), os.Lchown(at("setgid"), uid, 44003), unix.Chmod(at("setgid"), 0o2775),
		unix.Chmod(at("suid"), 0o6755))
}

var paths = []string{
	"file", "other", "secret", "suid", "dir", "full", "readonly/f", "readonly/new", "closed/f", "closed/new", "sticky/theirs", "sticky/mine",
	"sticky/new", "setgid/new", "link", "dangling", "dirlink", "dirlink/new", "loop1", "loop1/x", "fifo", "none", "none/x", "file/x", "fifo/x",
	".", "dir/.", "dir/..", "file/", "dir/", "none/", "link/", "dirlink/", "dangling/", strings.Repeat("n", 255), strings.Repeat("n", 256),
	"dir/" + strings.Repeat("./", 2100) + "new",
}

// twoPaths are those that calls with two of them are tried with.
var twoPaths = []string{
	"file", "file2", "other", "dir", "full", "readonly/f", "readonly/new", "closed/f", "sticky/theirs", "sticky/new", "link", "dangling", "dirlink/new",
	"loop1", "fifo", "none", "none/x", "dir/.", "dir/", "none/", "dir/in",
}

func opens(flags int) func(string) error {
	return func(p string) error {
		fd, err := unix.Open(p, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0o640)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	}
}

var onePathCalls = []struct {
	name string
	do   func(string) error
}{
	{"open for reading", opens(unix.O_RDONLY)},
	{"open for both", opens(unix.O_RDWR)},
	{"open and make", opens(unix.O_WRONLY | unix.O_CREAT)},
	{"open and make new", opens(unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL)},
	{"open and empty", opens(unix.O_WRONLY | unix.O_TRUNC)},
	{"open a folder", opens(unix.O_RDONLY | unix.O_DIRECTORY)},
	{"open no link", opens(unix.O_RDONLY | unix.O_NOFOLLOW)},
	{"open unnamed", opens(unix.O_RDWR | unix.O_TMPFILE)},
	{"mkdir", func(p string) error { return unix.Mkdir(p, 0o2751) }},
	{"rmdir", unix.Rmdir},
	{"unlink", unix.Unlink},
	{"symlink", func(p string) error { return unix.Symlink("target", p) }},
	{"mkfifo", func(p string) error { return unix.Mkfifo(p, 0o640) }},
	{"mknod", func(p string) error { return unix.Mknod(p, unix.S_IFREG|0o4711, 0) }},
	{"mknod of a device", func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) }},
	{"chmod", func(p string) error { return unix.Chmod(p, 0o640) }},
	{"chmod, all bits", func(p string) error { return unix.Chmod(p, 0o7777) }},
	{"chown to itself", func(p string) error { return unix.Chown(p, rig.User, rig.User) }},
	{"chown to another", func(p string) error { return unix.Chown(p, rig.Other, -1) }},
	{"chown of the group", func(p string) error { return unix.Chown(p, -1, rig.Other) }},
	{"chown of nothing", func(p string) error { return unix.Chown(p, -1, -1) }},
	{"lchown", func(p string) error { return unix.Lchown(p, -1, rig.User) }},
	{"truncate", func(p string) error { return unix.Truncate(p, 0) }},
	{"extend", func(p string) error { return unix.Truncate(p, 12345) }},
	{"utimes", func(p string) error { return unix.UtimesNano(p, []unix.Timespec{{Sec: 5}, {Sec: 6}}) }},
	{"utimes now", func(p string) error { return unix.Utimes(p, nil) }},
	{"readlink", func(p string) error { _, err := unix.Readlink(p, make([]byte, 100)); return err }},
	{"stat", func(p string) error { return unix.Stat(p, new(unix.Stat_t)) }},
	{"access for reading", func(p string) error { return unix.Faccessat(unix.AT_FDCWD, p, unix.R_OK, unix.AT_EACCESS) }},
	{"access for writing", func(p string) error { return unix.Faccessat(unix.AT_FDCWD, p, unix.W_OK, unix.AT_EACCESS) }},
	{"access for searching", func(p string) error { return unix.Faccessat(unix.AT_FDCWD, p, unix.X_OK, unix.AT_EACCESS) }},
	{"setxattr", func(p string) error { return unix.Setxattr(p, "user.x", []byte("x"), 0) }},
	{"removexattr", func(p string) error { return unix.Removexattr(p, "user.x") }},
}

func renames(flags uint) func(a, b string) error {
	return func(a, b string) error { return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, flags) }
}

var twoPathCalls = []struct {
	name string
	do   func(a, b string) error
}{
	{"rename", renames(0)},
	{"rename to new", renames(unix.RENAME_NOREPLACE)},
	{"exchange", renames(unix.RENAME_EXCHANGE)},
	{"link", unix.Link},
	{"link what is linked to", func(a, b string) error {
		return unix.Linkat(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.AT_SYMLINK_FOLLOW)
	}},
}

// harvest lists what is in a tree.
func harvest(root string) string {
	var b strings.Builder
	_ = filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(p, &st)
		}
		size := st.Size
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			size = 0
		}
		fmt.Fprintf(&b, " %.20s:%o,%d,%d,%d,%d", strings.TrimPrefix(p, root), st.Mode, st.Uid, st.Gid, st.Nlink, size)
		if st.Mtim.Sec < 1000 {
			fmt.Fprintf(&b, ",%d", st.Mtim.Sec)
		}
		return err
	})
	return b.String()
}

// byThread calls fn as uid, with one supplementary group.
func byThread(uid uint32, fn func() error) error {
	if uid == 0 {
		return fn()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and the thread ends
		groups := [1]uint32{44003}
		if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&groups[0])), 0); e != 0 {
			done <- e
			return
		}
		if err := become(uid); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

// TestMatrix plays the matrix in a folder and in a view.
func TestMatrix(t *testing.T) {
	f := newFolders(t, 0)
	old := syscall.Umask(0o022)
	defer syscall.Umask(old)
	count := 0
	type side struct {
		at, beneath string
		tree        string // that is as it was planted; "" for none
		fresh       string // what that looks like
	}
	bare, view := &side{at: f.bare, beneath: f.bare}, &side{at: f.view, beneath: f.beneath}
	// try has fn done in a new tree and tells what it said and left.
	try := func(uid uint32, s *side, fn func(root string) error) string {
		if s.tree == "" {
			s.tree = fmt.Sprint("t", count)
			if err := plant(filepath.Join(s.beneath, s.tree), rig.User); err != nil {
				t.Fatal(err)
			}
			s.fresh = harvest(filepath.Join(s.beneath, s.tree))
		}
		err := byThread(uid, func() error { return fn(filepath.Join(s.at, s.tree)) })
		said := "ok"
		var e unix.Errno
		if errors.As(err, &e) {
			said = unix.ErrnoName(e)
		} else if err != nil {
			said = err.Error()
		}
		left := harvest(filepath.Join(s.beneath, s.tree))
		if left != s.fresh {
			if err := os.RemoveAll(filepath.Join(s.beneath, s.tree)); err != nil {
				t.Fatal(err)
			}
			s.tree = ""
		}
		return said + left
	}
	bad := 0
	compare := func(uid uint32, what string, fn func(root string) error) {
		count++
		want := try(uid, bare, fn)
		if got := try(uid, view, fn); got != want {
			if bad++; bad < 20 {
				t.Errorf("%s by %d: in the folder (-), in the view (+):\n%s", what, uid, cmp.Diff(strings.Fields(want), strings.Fields(got)))
			}
		}
	}
	for _, uid := range []uint32{0, rig.User} {
		for _, c := range onePathCalls {
			for _, p := range paths {
				compare(uid, fmt.Sprintf("%s of %.20s", c.name, p), func(root string) error { return c.do(root + "/" + p) })
			}
		}
		for _, c := range twoPathCalls {
			for _, a := range twoPaths {
				for _, b := range twoPaths {
					compare(uid, fmt.Sprintf("%s of %s to %s", c.name, a, b), func(root string) error { return c.do(root+"/"+a, root+"/"+b) })
				}
			}
		}
	}
	t.Logf("%d calls, %d with differences", count, bad)
}
