package mount

import (
	"sync"

	"golang.org/x/sys/unix"
)

// maxMakers bounds the threads that make files at a time.
const maxMakers = 8

// A maker makes files as others would: the file system gives a new file to the
// user and group that the making thread has, and takes that thread's umask off.
// Both are changed on threads that do nothing else, as the umask would otherwise
// be the whole process's.
type maker struct {
	root bool
	jobs chan *job

	mu      sync.Mutex
	waiting int // jobs that aren't done
	threads int
}

type job struct {
	uid, gid, umask uint32
	fn              func() error
	done            chan error
}

func newMaker(root bool) *maker { return &maker{root: root, jobs: make(chan *job, 64)} }

// run calls fn on a thread with these ids, as far as we may take them, and
// umask. It has all rights to files that we have.
func (m *maker) run(uid, gid, umask uint32, fn func() error) error {
	j := &job{uid, gid, umask, fn, make(chan error, 1)}
	m.mu.Lock()
	m.waiting++
	if m.waiting > m.threads && m.threads < maxMakers {
		m.threads++
		onThread(m.work)
	}
	m.mu.Unlock()
	m.jobs <- j
	err := <-j.done
	m.mu.Lock()
	m.waiting--
	m.mu.Unlock()
	return err
}

// close ends the threads. run must not be called any more.
func (m *maker) close() { close(m.jobs) }

// work is one thread.
func (m *maker) work() {
	own := unix.Unshare(unix.CLONE_FS)
	t := thread{uid: uint32(unix.Geteuid()), gid: uint32(unix.Getegid())}
	for j := range m.jobs {
		err := own
		if err == nil && m.root {
			err = t.become(j.uid, j.gid)
		}
		if err == nil {
			unix.Umask(int(j.umask))
			err = j.fn()
		}
		j.done <- err
	}
}

// thread is what the calling thread's file system ids are.
type thread struct{ uid, gid uint32 }

// become changes them. setfsuid(2) to another than 0 takes the capabilities that
// concern files out of the effective set; they come back, since the kernel has
// checked what the caller may and by rules (supplementary groups) that aren't
// known here.
func (t *thread) become(uid, gid uint32) error {
	if gid != t.gid {
		if err := setFS(unix.SYS_SETFSGID, gid); err != nil {
			return err
		}
		t.gid = gid
	}
	if uid == t.uid {
		return nil
	}
	if err := setFS(unix.SYS_SETFSUID, uid); err != nil {
		return err
	}
	t.uid = uid
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return err
	}
	data[0].Effective, data[1].Effective = data[0].Permitted, data[1].Permitted
	return unix.Capset(&hdr, &data[0])
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
