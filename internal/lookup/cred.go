//go:build linux

package lookup

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fsCaps are the capabilities that decide about files, CAP_FS_SET of
// include/linux/capability.h: chown, dac_override, dac_read_search, fowner,
// fsetid, linux_immutable, mknod, mac_override.
const fsCaps uint64 = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<9 | 1<<27 | 1<<32

// setIDs are the capabilities to become another: CAP_SETGID, CAP_SETUID.
const setIDs uint64 = 1<<6 | 1<<7

// own is what this process may do; it does not change while it runs.
var own = sync.OnceValue(func() (t Task) {
	b, err := os.ReadFile("/proc/self/status")
	if err == nil {
		_ = t.parseStatus(b)
	}
	return t
})

var ownUserNS = sync.OnceValue(func() string {
	s, _ := os.Readlink("/proc/self/ns/user")
	return s
})

// As runs fn with the file system credentials of the task: fsuid, fsgid,
// supplementary groups and those capabilities that count for files. Everything
// fn asks the kernel about files is answered as it would be for the task.
//
// A supervisor without CAP_SETUID shares all of these with its tree (nothing
// in it can gain privileges, see no_new_privs), so fn then runs as it is.
func (t *Task) As(fn func() error) error {
	o := own()
	if o.Caps&setIDs != setIDs || t.sameFileRights(&o) {
		return fn()
	}
	done := make(chan error, 1)
	// A goroutine of its own: if the credentials can't be put back, its thread
	// must die with it rather than serve other work.
	go func() {
		runtime.LockOSThread()
		err := t.assume(&o)
		if err == nil {
			err = fn()
		}
		if restore(&o) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// AsPeer runs fn with the effective user and group and the supplementary groups
// of the task, so that whoever asks for SO_PEERCRED or SO_PEERGROUPS of a socket
// that fn connects or listens on sees those. Without CAP_SETUID they are ours
// anyway. fn has no capabilities where the task's user is not ours.
func (t *Task) AsPeer(fn func() error) error {
	o := own()
	if o.Caps&setIDs != setIDs || t.EUID == o.EUID && t.EGID == o.EGID && slices.Equal(t.Groups, o.Groups) {
		return fn()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := setGroups(t.Groups)
		if err == nil {
			err = setEffectiveIDs(t.EUID, t.EGID)
		}
		if err == nil {
			err = fn()
		} else {
			err = fmt.Errorf("take the ids of task %d: %w", t.TID, err)
		}
		// The user first: its return brings the capability to change the groups.
		if setEffectiveIDs(o.EUID, o.EGID) == nil && setGroups(o.Groups) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// setEffectiveIDs changes the calling thread alone.
func setEffectiveIDs(uid, gid uint32) error {
	const keep = ^uintptr(0)
	user := func() unix.Errno {
		_, _, e := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep)
		return e
	}
	group := func() unix.Errno {
		_, _, e := unix.RawSyscall(unix.SYS_SETRESGID, keep, uintptr(gid), keep)
		return e
	}
	first, second := group, user
	if uid == own().EUID {
		first, second = user, group
	}
	if e := first(); e != 0 {
		return e
	}
	if e := second(); e != 0 {
		return e
	}
	return nil
}

func (t *Task) sameFileRights(o *Task) bool {
	return t.FSUID == o.FSUID && t.FSGID == o.FSGID && t.Caps&fsCaps == o.Caps&fsCaps && slices.Equal(t.Groups, o.Groups)
}

// assume changes the calling thread alone: the raw calls are per thread, unlike
// the C library's and package syscall's.
func (t *Task) assume(o *Task) error {
	if err := setGroups(t.Groups); err != nil {
		return fmt.Errorf("take the groups of task %d: %w", t.TID, err)
	}
	if err := setFS(unix.SYS_SETFSGID, t.FSGID); err != nil {
		return fmt.Errorf("take the group of task %d: %w", t.TID, err)
	}
	if err := setFS(unix.SYS_SETFSUID, t.FSUID); err != nil {
		return fmt.Errorf("take the user of task %d: %w", t.TID, err)
	}
	if err := setEffective(o.Caps&^fsCaps | t.Caps&o.Caps&fsCaps); err != nil {
		return fmt.Errorf("take the capabilities of task %d: %w", t.TID, err)
	}
	return nil
}

func restore(o *Task) error {
	if err := setEffective(o.Caps); err != nil {
		return err
	}
	if err := setFS(unix.SYS_SETFSUID, o.FSUID); err != nil {
		return err
	}
	if err := setFS(unix.SYS_SETFSGID, o.FSGID); err != nil {
		return err
	}
	if err := setGroups(o.Groups); err != nil {
		return err
	}
	// setfsuid(2) back to 0 raises the file capabilities again, all of them.
	return setEffective(o.Caps)
}

func setGroups(g []uint32) error {
	var p unsafe.Pointer
	if len(g) > 0 {
		p = unsafe.Pointer(&g[0])
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(g)), uintptr(p), 0); e != 0 {
		return e
	}
	return nil
}

// setFS calls setfsuid or setfsgid, which return the old id and no error: the
// second call, with an id that nobody has, tells what is in force.
func setFS(trap uintptr, id uint32) error {
	unix.RawSyscall(trap, uintptr(id), 0, 0)
	if now, _, _ := unix.RawSyscall(trap, ^uintptr(0), 0, 0); uint32(now) != id {
		return unix.EPERM
	}
	return nil
}

func setEffective(caps uint64) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return err
	}
	data[0].Effective = uint32(caps) & data[0].Permitted
	data[1].Effective = uint32(caps>>32) & data[1].Permitted
	return unix.Capset(&hdr, &data[0])
}
