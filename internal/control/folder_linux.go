package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"drvsock/internal/afunix"
	"drvsock/internal/report"
)

// Names in the folder.
const (
	socketName = "control.sock"
	lockName   = "lock"
	logName    = "daemon.log"
)

// A Folder is the daemon's own, held open so that what was checked is what is
// used.
type Folder struct {
	path string
	fd   int             // O_PATH
	made afunix.Identity // of the control socket that Listen made
}

// OpenFolder finds the daemon's folder and checks that it is this user's alone.
// With make it is made if need be; else the error is ErrNone if it isn't there.
// The caller closes it.
func OpenFolder(make bool) (*Folder, error) {
	return openFolder(place(os.Getenv, os.Geteuid(), "/run/user"), os.Geteuid(), make)
}

// place is where the folder belongs: in $XDG_RUNTIME_DIR, in run/UID, or under
// a name of its own in $TMPDIR or /tmp. The first two count only if they are what
// the XDG Base Directory Specification wants of them, the user's own: under sudo
// the variable may name another's, and WSLg's folder is open to all and shared by
// all distros.
func place(env func(string) string, uid int, run string) string {
	for _, base := range []string{env("XDG_RUNTIME_DIR"), filepath.Join(run, strconv.Itoa(uid))} {
		if filepath.IsAbs(base) && private(base, uid, 0o022) == nil {
			return filepath.Join(base, "drvsock")
		}
	}
	base := env("TMPDIR")
	if !filepath.IsAbs(base) {
		base = "/tmp"
	}
	return filepath.Join(base, "drvsock-"+strconv.Itoa(uid))
}

// private checks that path is a folder of uid to which the bits of deny give
// nobody else access.
func private(path string, uid int, deny uint32) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return checkPrivate(path, &st, uid, deny)
}

func checkPrivate(path string, st *unix.Stat_t, uid int, deny uint32) error {
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%s is no folder", path)
	case int(st.Uid) != uid:
		return report.Hint(fmt.Errorf("%s belongs to user %d, not to user %d", path, st.Uid, uid),
			"have it removed, or set XDG_RUNTIME_DIR to a folder of your own")
	case st.Mode&deny != 0:
		return report.Hint(fmt.Errorf("%s has mode %04o, so others could get in", path, st.Mode&0o7777), "chmod 700 %s", path)
	}
	return nil
}

func openFolder(path string, uid int, make bool) (*Folder, error) {
	if make {
		if err := unix.Mkdir(path, 0o700); err != nil && err != unix.EEXIST {
			return nil, fmt.Errorf("make the daemon's folder: %w", &os.PathError{Op: "mkdir", Path: path, Err: err})
		}
	}
	// A link is not followed: whoever made it may turn it elsewhere.
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		if err == unix.ENOENT && !make {
			return nil, ErrNone
		}
		return nil, fmt.Errorf("open the daemon's folder: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		err = checkPrivate(path, &st, uid, 0o077)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("the daemon's folder: %w", err)
	}
	return &Folder{path: path, fd: fd}, nil
}

// Close gives the descriptor back.
func (f *Folder) Close() { _ = unix.Close(f.fd) }

// Socket is the path of the control socket, for people: it may be longer than a
// socket's address can be.
func (f *Folder) Socket() string { return filepath.Join(f.path, socketName) }

// Log is the path of the log of a daemon that runs in the background.
func (f *Folder) Log() string { return filepath.Join(f.path, logName) }

// at is a path to a file in the very folder that was checked, short enough for
// any address.
func (f *Folder) at(name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", f.fd, name) }

// A Lock says that this process is the user's one daemon, until Close or its end.
type Lock struct{ file *os.File }

// ErrLocked says that another daemon runs, or is just starting or ending.
var ErrLocked = errors.New("another daemon runs")

// Lock takes the lock, or returns ErrLocked without waiting.
func (f *Folder) Lock() (*Lock, error) {
	fd, err := unix.Openat(f.fd, lockName, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the daemon's lock: %w", &os.PathError{Op: "open", Path: filepath.Join(f.path, lockName), Err: err})
	}
	file := os.NewFile(uintptr(fd), lockName)
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = file.Close()
		if err == unix.EWOULDBLOCK {
			return nil, ErrLocked
		}
		return nil, os.NewSyscallError("flock", err)
	}
	return &Lock{file}, nil
}

// Close gives the lock up. The file stays: removing it would let two have it.
func (l *Lock) Close() { _ = l.file.Close() }

// OpenLog opens the log for appending, and makes it if need be. The caller, who
// has the lock, closes it. rotate first gives the one that is there the name of
// the one old log that is kept.
func (f *Folder) OpenLog(rotate bool) (*os.File, error) {
	if rotate {
		if err := unix.Renameat(f.fd, logName, f.fd, logName+".1"); err != nil && err != unix.ENOENT {
			return nil, &os.PathError{Op: "rename", Path: f.Log(), Err: err}
		}
	}
	fd, err := unix.Openat(f.fd, logName, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: f.Log(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Log()), nil
}

// removable checks that name is a socket, or not there.
func (f *Folder) removable(name string) error {
	var st unix.Stat_t
	err := unix.Fstatat(f.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == unix.ENOENT:
		return fs.ErrNotExist
	case err != nil:
		return &os.PathError{Op: "stat", Path: filepath.Join(f.path, name), Err: err}
	case st.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return report.Hint(fmt.Errorf("%s is no socket", filepath.Join(f.path, name)), "remove it, it is not drvsock's")
	}
	return nil
}
