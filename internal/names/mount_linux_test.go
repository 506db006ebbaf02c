package names

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUnmount unmounts a file system that was mounted before the keeper
// started, and sees it go, which it wouldn't if the keeper kept a copy.
func TestUnmount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount: sudo go test ./internal/names")
	}
	for name, flags := range map[string]uintptr{"root": 0, "user namespace": unix.CLONE_NEWUSER} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			done := make(chan error)
			go func() {
				runtime.LockOSThread() // and never unlocked: the thread ends here, its mounts with it
				done <- unmountBeside(dir, flags)
			}()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func unmountBeside(dir string, flags uintptr) error {
	if err := ownMounts(); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"); err != nil {
		return err
	}
	k, err := Start(func(argv []string, files []*os.File, attr *syscall.SysProcAttr) (func() error, func(), error) {
		if attr.Cloneflags = flags; flags != 0 {
			attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
			attr.GidMappings = attr.UidMappings
		}
		return startProcess(argv, files, attr)
	}, nil)
	if err != nil {
		return err
	}
	defer k.Close()
	// IN_UNMOUNT comes when the last mount of the file system has gone (inotify(7)).
	in, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	if _, err := unix.InotifyAddWatch(in, dir, unix.IN_DELETE_SELF); err != nil {
		return err
	}
	if err := unix.Unmount(dir, 0); err != nil {
		return err
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(in), Events: unix.POLLIN}}, 10_000)
	if err == nil && n == 0 {
		err = errors.New("file system is still mounted somewhere")
	}
	return err
}

// ownMounts gives the calling thread mounts of its own.
func ownMounts() error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return err
	}
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
}

// TestChroot starts a keeper where the root is no mount.
func TestChroot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for a chroot: sudo go test ./internal/names")
	}
	dir := t.TempDir()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked, as above
		done <- bindInChroot(dir)
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func bindInChroot(dir string) error {
	if err := ownMounts(); err != nil {
		return err
	}
	// What the program's file and its libraries need.
	for _, sub := range []string{"/proc", "/dev", "/usr", "/lib", "/lib64"} {
		if _, err := os.Stat(sub); err != nil {
			continue
		}
		to := filepath.Join(dir, sub)
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(sub, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind mount of %s: %w", sub, err)
		}
	}
	if err := unix.Chroot(dir); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	k, err := Start(nil, nil)
	if err != nil {
		return err
	}
	defer k.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// A file of this name would be in the way in any root but the keeper's.
	n, err := k.Bind(fd, sockaddr("/proc"))
	if err != nil {
		return err
	}
	return n.Close()
}
