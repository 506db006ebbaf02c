//go:build linux

package lookup

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// A Task is what a thread may do on the file system, read from
// /proc/TID/status at one moment. The thread waits in a system call while the
// supervisor works for it, so only other threads could change its process.
type Task struct {
	TID, TGID int
	Name      string // comm, at most 15 bytes
	EUID      uint32 // effective ids, what SO_PEERCRED shows
	EGID      uint32
	FSUID     uint32
	FSGID     uint32
	Groups    []uint32
	Caps      uint64 // effective capabilities, 0 if the task lives in another user namespace
	Umask     uint32
}

// ReadTask reads the state of the thread tid. The error wraps os.ErrNotExist
// when the thread is gone.
func ReadTask(tid int) (*Task, error) {
	dir := "/proc/" + strconv.Itoa(tid)
	b, err := readProc(dir + "/status")
	if err != nil {
		return nil, fmt.Errorf("read status of task %d: %w", tid, err)
	}
	t := &Task{TID: tid}
	if err := t.parseStatus(b); err != nil {
		return nil, fmt.Errorf("read status of task %d: %w", tid, err)
	}
	if t.Caps != 0 {
		// Capabilities count only towards the namespace they were given in
		// (user_namespaces(7)); a task that is root in a namespace of its own has
		// none over the inodes of ours.
		if ns, err := os.Readlink(dir + "/ns/user"); err != nil || ns != ownUserNS() {
			t.Caps = 0
		}
	}
	return t, nil
}

// readProc reads a small file of /proc. os.ReadFile also asks for its size and
// offers it to the runtime's poller, and this is done for each call of a task.
func readProc(name string) ([]byte, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	b := make([]byte, 0, 4096)
	for {
		n, err := unix.Read(fd, b[len(b):cap(b)])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, err
		case n == 0 || len(b)+n < cap(b):
			return b[:len(b)+n], nil // seq_file(5) of the kernel fills the buffer while there is more
		default:
			b = append(b[:len(b)+n], make([]byte, cap(b))...)[:len(b)+n]
		}
	}
}

// parseStatus takes the fields of proc_pid_status(5) that matter. It is asked for
// each call of a task, so it looks at no line longer than it must.
func (t *Task) parseStatus(b []byte) error {
	const all = 6
	seen := 0
	for line := range bytes.Lines(b) {
		if seen == all {
			break
		}
		key, value, ok := bytes.Cut(bytes.TrimSuffix(line, []byte{'\n'}), []byte{':'})
		if !ok {
			continue
		}
		var err error
		switch string(key) {
		case "Name":
			t.Name = string(bytes.TrimPrefix(value, []byte{'\t'}))
			continue
		case "Umask":
			t.Umask, err = parseID(bytes.Fields(value), 0, 8)
		case "Tgid":
			var n uint32
			n, err = parseID(bytes.Fields(value), 0, 10)
			t.TGID = int(n)
		case "Uid":
			t.EUID, t.FSUID, err = parseIDs(bytes.Fields(value))
		case "Gid":
			t.EGID, t.FSGID, err = parseIDs(bytes.Fields(value))
		case "Groups":
			f := bytes.Fields(value)
			for i := range f {
				var g uint32
				if g, err = parseID(f, i, 10); err != nil {
					break
				}
				t.Groups = append(t.Groups, g)
			}
		case "CapEff":
			t.Caps, err = strconv.ParseUint(string(bytes.TrimSpace(value)), 16, 64)
		default:
			continue
		}
		if err != nil {
			return fmt.Errorf("field %s: %w", key, err)
		}
		seen++
	}
	if seen < all {
		return fmt.Errorf("%d of %d fields found", seen, all)
	}
	return nil
}

// parseIDs reads the effective and the file system id, the second and last of
// four.
func parseIDs(f [][]byte) (effective, fs uint32, err error) {
	if effective, err = parseID(f, 1, 10); err == nil {
		fs, err = parseID(f, 3, 10)
	}
	return effective, fs, err
}

func parseID(f [][]byte, i, base int) (uint32, error) {
	if i >= len(f) {
		return 0, fmt.Errorf("%d values, want more than %d", len(f), i)
	}
	n, err := strconv.ParseUint(string(f[i]), base, 32)
	return uint32(n), err
}

// folder opens one of the task's own folders, "root" or "cwd", as an O_PATH
// descriptor that the caller closes. The link in /proc leads into the task's
// own mount namespace.
func (t *Task) folder(which string) (int, error) {
	fd, err := unix.Open("/proc/"+strconv.Itoa(t.TID)+"/"+which, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s of task %d: %w", which, t.TID, err)
	}
	return fd, nil
}
