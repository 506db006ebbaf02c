package names

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrUnavailable says that this system or user can have no Keeper, or that the
// Keeper has ended.
var ErrUnavailable = errors.New("sockets can't be given names here")

// Unavailable is an ErrUnavailable with its reason.
type Unavailable struct {
	Step string // what was tried, such as "mount tmpfs"
	Err  error  // what came of it
	Hint string // where to look, or ""
}

// Error says step, cause and hint.
func (u *Unavailable) Error() string {
	s := fmt.Sprintf("%v: %s: %v", ErrUnavailable, u.Step, u.Err)
	if u.Hint != "" {
		s += " (" + u.Hint + ")"
	}
	return s
}

// Unwrap gives ErrUnavailable and the cause.
func (u *Unavailable) Unwrap() []error { return []error{ErrUnavailable, u.Err} }

func unavailable(step string, err error) *Unavailable {
	u := &Unavailable{Step: step, Err: err}
	for _, e := range []unix.Errno{unix.EPERM, unix.EACCES, unix.ENOSPC, unix.EUSERS, unix.EINVAL} {
		if errors.Is(err, e) {
			u.Hint = hint(os.ReadFile)
			break
		}
	}
	return u
}

// obstacles are the switches by which systems forbid user namespaces.
var obstacles = []struct{ sysctl, value, why string }{
	{"user.max_user_namespaces", "0", "user_namespaces(7)"},
	{"kernel.unprivileged_userns_clone", "0", "Debian's kernels"},
	{"kernel.apparmor_restrict_unprivileged_userns", "1", "Ubuntu 23.10 and later"},
}

// Obstacles names the switches of this system that forbid user namespaces, "" if
// there are none.
func Obstacles() string { return switches(os.ReadFile) }

// hint names the switches that stand in the way.
func hint(read func(string) ([]byte, error)) string {
	if s := switches(read); s != "" {
		return s
	}
	return "a container, a chroot or a security module may forbid namespaces"
}

func switches(read func(string) ([]byte, error)) string {
	var found []string
	for _, o := range obstacles {
		b, err := read("/proc/sys/" + strings.ReplaceAll(o.sysctl, ".", "/"))
		if err == nil && strings.TrimSpace(string(b)) == o.value {
			found = append(found, o.sysctl+" is "+o.value+", see "+o.why)
		}
	}
	return strings.Join(found, "; ")
}

// sysProcAttr puts the process in a session of its own, so that no terminal
// sends it signals, and in a user namespace if it couldn't make its mount
// namespace otherwise.
func sysProcAttr() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setsid: true}
	if Capable(unix.CAP_SYS_ADMIN) && Capable(unix.CAP_SYS_CHROOT) {
		return a
	}
	a.Cloneflags = unix.CLONE_NEWUSER
	// Only one's own IDs may be mapped without privileges, and the group's only
	// with setgroups denied, which false does (user_namespaces(7)).
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	a.GidMappingsEnableSetgroups = false
	return a
}

// Capable reports whether capability c is in effect.
func Capable(c int) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[c/32].Effective&(1<<(c%32)) != 0
}

// startProcess is the Spawner for callers without a reaper of their own.
func startProcess(argv []string, files []*os.File, attr *syscall.SysProcAttr) (func() error, func(), error) {
	p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{Files: files, Sys: attr})
	if err != nil {
		return nil, nil, err
	}
	wait := func() error {
		state, err := p.Wait()
		if err == nil && !state.Success() {
			err = errors.New(state.String())
		}
		return err
	}
	return wait, func() { _ = p.Kill() }, nil
}
