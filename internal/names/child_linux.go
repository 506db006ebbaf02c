package names

import (
	"errors"
	"io"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"drvsock/internal/seccomp"

	"golang.org/x/sys/unix"
)

// Main is the keeper's process. It returns the exit code when the Keeper's end
// of the socket is closed: 0, or 1 if it couldn't serve.
func Main() int {
	// One thread does it all; it blocks in the kernel and not in the runtime.
	runtime.LockOSThread()
	closeInherited()
	step, err := enter()
	if seccomp.SendFD(sockFD, appendReply(nil, step, err), -1) != nil || err != 0 {
		return 1
	}
	if serve() != nil {
		return 1
	}
	return 0
}

// closeInherited closes what the user's shell let us inherit, such as a lock
// or a pipe, which must not stay open for as long as this process lives.
// Descriptors that the runtime has opened are close-on-exec, inherited ones
// never are.
func closeInherited() {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd <= sockFD {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
}

// enter makes the world of this thread: a mount namespace of its own with an
// empty file system as the root and no other mount. It returns the step that
// failed and its number.
//
// The namespace is made here and not by who starts the process, since what
// follows would lay the machine waste if it were forgotten there.
func enter() (string, unix.Errno) {
	// The threads of the runtime share no root with this one afterwards. They
	// too aren't to keep the user's folder busy.
	if err := unix.Chdir("/"); err != nil {
		return "leave folder", number(err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return "make mount namespace", number(err)
	}
	root, step, err := newRoot()
	if err != nil {
		return step, number(err)
	}
	// root stays open: a mount that hangs in no tree ends with its descriptor.
	if err := unix.Fchdir(root); err != nil {
		return "enter tmpfs", number(err)
	}
	if leaveOld(root) != nil {
		// Inside a chroot the old root is no mount, so it has to stay. The new one
		// hangs in no tree then, so nothing of it reaches other namespaces.
		if err := unix.Fchdir(root); err != nil {
			return "enter tmpfs", number(err)
		}
		if err := unix.Chroot("."); err != nil {
			return "chroot into tmpfs", number(err)
		}
	}
	if err := unix.Chdir("/"); err != nil {
		return "enter tmpfs", number(err)
	}
	unix.Umask(0)
	return "", 0
}

// leaveOld puts root, the current directory, in the place of the old root and
// unmounts that with all below it: these copies of the machine's mounts would
// keep file systems busy that the user unmounts. The way over pivot_root(2),
// section "pivot_root(".", ".")", is the only one in a user namespace, where
// the old root is locked to its place.
func leaveOld(root int) error {
	// Without this the unmounting would reach the mounts of everybody.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(old)
	if err := unix.MoveMount(root, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Fchdir(old); err != nil {
		return err
	}
	return unix.Unmount(".", unix.MNT_DETACH)
}

// newRoot makes a file system in memory that needs no folder to be mounted on.
// Names are gone from it as soon as they are made, but each named socket in use
// holds an inode; the size is for nothing, since no file is ever written.
func newRoot() (fd int, step string, err error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, "open tmpfs", err
	}
	defer unix.Close(fs)
	for _, o := range [][2]string{{"source", "drvsock"}, {"size", "64k"}, {"nr_inodes", "1048576"}, {"mode", "0700"}} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return -1, "set " + o[0] + " of tmpfs", err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, "create tmpfs", err
	}
	fd, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, "mount tmpfs", err
	}
	return fd, "", nil
}

// serve answers until the other end is closed. It gives up if a name can't be
// removed again, since the next socket might not find an empty tree.
func serve() error {
	buf := make([]byte, maxSockaddr)
	out := make([]byte, 0, maxReply)
	var t tree
	for {
		n, fd, err := seccomp.RecvFD(sockFD, buf)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		r := t.handle(fd, buf[:n])
		if fd >= 0 {
			unix.Close(fd)
		}
		err = seccomp.SendFD(sockFD, appendReply(out, r.step, number(r.err)), r.node)
		if r.node >= 0 {
			unix.Close(r.node)
		}
		if err = errors.Join(err, r.residue); err != nil {
			return err
		}
	}
}

// A result is what became of a request.
type result struct {
	node    int // O_PATH descriptor of the socket's inode, -1 if err is set
	step    string
	err     error // of step
	residue error // why something was left behind in the tree
}

// A tree is what stands in the file system between requests: the folders of
// the last name, since the next one often needs the same, and no file.
type tree struct {
	dir  string   // the last name up to its last slash
	made []string // folders, each after its parent
}

// handle names socket fd.
func (t *tree) handle(fd int, sockaddr []byte) result {
	name, ok := sockaddrPath(sockaddr)
	if !ok || fd < 0 {
		return result{node: -1, step: "request to bind", err: unix.EINVAL}
	}
	if dir := folder(name); dir != t.dir {
		if err := t.clear(); err != nil {
			return result{node: -1, step: "remove folders of name", err: err, residue: err}
		}
		if err := t.build(dir); err != nil {
			return result{node: -1, step: "make folders for name", err: err, residue: t.clear()}
		}
	}
	return bind(fd, sockaddr, name)
}

// folder returns name without its last element, as it is written.
func folder(name string) string {
	return name[:strings.LastIndexByte(strings.TrimRight(name, "/"), '/')+1]
}

// build makes all folders that the kernel passes through in dir. The root is
// the current directory too, and its parent, so that ".." leads nowhere else and
// a relative name is as good as an absolute one.
func (t *tree) build(dir string) error {
	at := "/"
	for e := range strings.SplitSeq(dir, "/") {
		at = path.Join(at, e)
		switch err := unix.Mkdir(at, 0o700); err {
		case nil:
			t.made = append(t.made, at)
		case unix.EEXIST:
		default:
			return err
		}
	}
	t.dir = dir
	return nil
}

// clear removes what build made.
func (t *tree) clear() error {
	var errs error
	for i := len(t.made) - 1; i >= 0; i-- {
		errs = errors.Join(errs, unix.Rmdir(t.made[i]))
	}
	*t = tree{made: t.made[:0]}
	return errs
}

// bind binds in a tree without files and removes the name again.
func bind(fd int, sockaddr []byte, name string) result {
	_, _, e := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&sockaddr[0])), uintptr(len(sockaddr)))
	if e != 0 {
		return result{node: -1, step: "bind", err: e}
	}
	// The file has the mode that the program gave its socket by fchmod(2), and us
	// as its owner. Who may connect is decided by the file on the host; here it is
	// whoever holds the descriptor, under whatever account.
	err := unix.Chmod(name, 0o777)
	if err != nil {
		return result{node: -1, step: "open socket to all", err: err, residue: unix.Unlink(name)}
	}
	node, err := unix.Open(name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	return result{node: node, step: "open socket", err: err, residue: unix.Unlink(name)}
}

func number(err error) unix.Errno {
	if err == nil {
		return 0
	}
	if e, ok := err.(unix.Errno); ok {
		return e
	}
	return unix.EIO
}
