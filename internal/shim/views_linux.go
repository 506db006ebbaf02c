package shim

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"drvsock/internal/mount"
	"drvsock/internal/names"
	"drvsock/internal/seccomp"
)

// A View is a folder over which the shim mounts a view, for who has sent it to
// serve. It lies in the mount namespace that the shim was started with.
type View struct{ Dir, HostPath string }

// Namespaces are what a shim with views is to be started with. A process that may
// not mount gets a user namespace too, in which the user's own numbers alone
// exist, and the one capability that mount(2) takes.
func Namespaces() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if names.Capable(unix.CAP_SYS_ADMIN) {
		return a
	}
	a.Cloneflags |= unix.CLONE_NEWUSER
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
	a.GidMappingsEnableSetgroups = false
	a.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN}
	return a
}

// mountViews mounts the views and sends each one's connection to the kernel and
// its root, in this order.
func mountViews(sock int, views []View, others bool) error {
	// What is mounted and unmounted outside later is to be so here too, and not
	// the other way round.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		if err == unix.EINVAL {
			return errors.New("the root folder is no mount: a chroot has no mounts of its own")
		}
		return fmt.Errorf("mounts of its own: %w", err)
	}
	for _, v := range views {
		if err := mountView(sock, v, others); err != nil {
			return fmt.Errorf("mount a view over %s: %w", v.Dir, err)
		}
	}
	return nil
}

func mountView(sock int, v View, others bool) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(v.Dir, &fs); err != nil {
		return err
	}
	conn, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/fuse: %w", err)
	}
	defer unix.Close(conn)
	// What the folder beneath forbids, its view does. The numbers are alike for
	// statfs(2) and mount(2).
	flags := uintptr(fs.Flags) & (unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	source, fstype, data := mount.GivenData(conn, others)
	if err := unix.Mount(source(v.HostPath), v.Dir, fstype, flags, data); err != nil {
		return err
	}
	// Whoever serves it has to have this before anything in the view is asked for.
	if err := seccomp.SendFD(sock, []byte(msgConn), conn); err != nil {
		return err
	}
	root, err := unix.Open(v.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	return seccomp.SendFD(sock, []byte(msgRoot), root)
}

// enterViews goes to the working folder by its name, which may lie in a view now.
func enterViews(cwd string, views []View) error {
	if !strings.HasPrefix(cwd, "/") {
		return nil // unreachable by name, and so in no view
	}
	err := unix.Chdir(cwd)
	if err == nil {
		return nil
	}
	for _, v := range views {
		if rest, ok := strings.CutPrefix(cwd, v.Dir); ok && (rest == "" || rest[0] == '/') {
			return fmt.Errorf("enter %s: %w", cwd, err)
		}
	}
	return nil // where it is, it is as good
}

// dropCapabilities leaves the calling thread without any, if it is in a user
// namespace for the views: whoever is user 0 gets those back at exec that go with
// that.
func dropCapabilities() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl(PR_CAP_AMBIENT)", err)
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return os.NewSyscallError("capset", unix.Capset(&hdr, &none[0]))
}

// ReceiveView waits for the next view that the shim has mounted and takes its
// descriptors over.
func ReceiveView(sock int) (mount.Given, error) {
	conn, err := receive(sock, msgConn)
	if err != nil {
		return mount.Given{}, err
	}
	root, err := receive(sock, msgRoot)
	if err != nil {
		_ = unix.Close(conn)
		return mount.Given{}, err
	}
	return mount.Given{Conn: conn, Root: root}, nil
}
