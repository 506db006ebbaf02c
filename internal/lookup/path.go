//go:build linux

package lookup

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	maxLinks = 40      // MAXSYMLINKS of include/linux/namei.h
	maxSteps = 4096    // elements walked in all; PATH_MAX bytes can't hold more than half of it per link
	linkMax  = 1 << 12 // PATH_MAX
)

// A Place is where a path leads. Its descriptors are O_PATH and belong to it.
type Place struct {
	Parent int         // folder that holds the last element
	Base   []byte      // last element, after symbolic links; never "." or ".."
	Target int         // what lies there, -1 if nothing
	Stat   unix.Stat_t // of Target
}

// Close gives the descriptors back.
func (p *Place) Close() {
	if p.Parent >= 0 {
		_ = unix.Close(p.Parent)
	}
	if p.Target >= 0 {
		_ = unix.Close(p.Target)
	}
	p.Parent, p.Target = -1, -1
}

// Exists tells if something lies at the place.
func (p *Place) Exists() bool { return p.Target >= 0 }

// Resolve walks path as the kernel would for the task. With follow, a symbolic
// link at the end is followed too, as connect(2) does and bind(2) doesn't.
// A missing last element is no error: the Place then has no Target.
// Other errors are the kernel's own (unix.Errno), found on the way there.
func (t *Task) Resolve(path []byte, follow bool) (*Place, error) {
	root, err := t.folder("root")
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	cwd := -1
	if len(path) == 0 || path[0] != '/' {
		if cwd, err = t.folder("cwd"); err != nil {
			return nil, err
		}
		defer unix.Close(cwd)
	}
	var place *Place
	err = t.As(func() error {
		w := walker{task: t, root: root, follow: follow}
		p, err := w.walk(cwd, path)
		place = p
		return err
	})
	if err != nil {
		return nil, err
	}
	return place, nil
}

// May asks if the task has the rights mode (unix.W_OK and the like) on what the
// O_PATH descriptor fd stands for. faccessat2(2) with AT_EACCESS asks with the
// calling thread's file system ids (Linux 5.8).
func (t *Task) May(fd int, mode uint32) error {
	return t.As(func() error {
		return unix.Faccessat2(fd, "", mode, unix.AT_EMPTY_PATH|unix.AT_EACCESS)
	})
}

type walker struct {
	task   *Task
	root   int
	follow bool
	links  int
	cur    int // owned; -1 when handed on
}

func (w *walker) walk(start int, path []byte) (*Place, error) {
	if len(path) == 0 {
		return nil, unix.ENOENT
	}
	if path[0] == '/' {
		start = w.root
	}
	w.cur = -1
	if err := w.enter(start); err != nil {
		return nil, err
	}
	defer func() {
		if w.cur >= 0 {
			_ = unix.Close(w.cur)
		}
	}()
	rest := bytes.Clone(path)
	for range maxSteps {
		rest = bytes.TrimLeft(rest, "/")
		name, tail := rest, []byte(nil)
		if i := bytes.IndexByte(rest, '/'); i >= 0 {
			name, tail = rest[:i], rest[i:]
		}
		// Only slashes after the name: it is the last one and must be a folder.
		last := len(bytes.TrimLeft(tail, "/")) == 0
		slash := last && len(tail) > 0
		if len(name) == 0 || string(name) == "." || string(name) == ".." {
			if string(name) == ".." {
				if err := w.up(); err != nil {
					return nil, err
				}
			}
			if last {
				return w.folderItself()
			}
			rest = tail
			continue
		}
		fd, st, err := w.open(name)
		if err == unix.ENOENT && last {
			if slash {
				return nil, unix.ENOENT
			}
			return w.place(name, -1, unix.Stat_t{}), nil
		}
		if err != nil {
			return nil, err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK && (!last || w.follow || slash) {
			next, jumped, err := w.link(fd, name)
			if err != nil {
				return nil, err
			}
			if jumped >= 0 {
				// The kernel itself followed a link of /proc to a file or folder.
				if last {
					if err := unix.Fstat(jumped, &st); err != nil {
						_ = unix.Close(jumped)
						return nil, err
					}
					return w.landed(name, jumped, st), nil
				}
				w.move(jumped)
				rest = tail
				continue
			}
			rest = append(next, tail...)
			continue
		}
		if last {
			if slash && st.Mode&unix.S_IFMT != unix.S_IFDIR {
				_ = unix.Close(fd)
				return nil, unix.ENOTDIR
			}
			return w.place(name, fd, st), nil
		}
		w.move(fd)
		rest = tail
	}
	return nil, unix.ELOOP
}

// open opens name in the current folder, whatever it is.
func (w *walker) open(name []byte) (fd int, st unix.Stat_t, err error) {
	fd, err = unix.Openat(w.cur, string(name), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, st, err
	}
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		if err == unix.ESTALE { // removed since, where the kernel has to ask for attributes
			err = unix.ENOENT
		}
		return -1, st, err
	}
	return fd, st, nil
}

// landed is the place of the file to which a link of /proc named name has led: in the
// folder and under the name that the kernel has for it, if those are true for the
// task. Else it is the link's own, as there may be no other.
func (w *walker) landed(name []byte, fd int, st unix.Stat_t) *Place {
	p := w.place(name, fd, st)
	text, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil || text[0] != '/' {
		return p // no file
	}
	dir, base := filepath.Split(text[1:])
	parent, err := unix.Openat2(w.root, "./"+dir, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return p
	}
	same := false
	if file, err := unix.Openat(parent, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err == nil {
		same, _ = sameFolder(fd, file)
		_ = unix.Close(file)
	}
	if !same {
		_ = unix.Close(parent)
		return p
	}
	_ = unix.Close(p.Parent)
	p.Parent, p.Base = parent, []byte(base)
	return p
}

// place hands the current folder and target over.
func (w *walker) place(name []byte, target int, st unix.Stat_t) *Place {
	p := &Place{Parent: w.cur, Base: bytes.Clone(name), Target: target, Stat: st}
	w.cur = -1
	return p
}

// folderItself is the place of a path that ends in "/", "." or "..": the folder
// exists, and has no name that bind(2) could make.
func (w *walker) folderItself() (*Place, error) {
	var st unix.Stat_t
	if err := unix.Fstat(w.cur, &st); err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(uintptr(w.cur), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return w.place(nil, fd, st), nil
}

func (w *walker) enter(fd int) error {
	d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	w.move(d)
	return nil
}

func (w *walker) move(fd int) {
	if w.cur >= 0 {
		_ = unix.Close(w.cur)
	}
	w.cur = fd
}

// up goes to "..", which at the task's root folder leads nowhere.
func (w *walker) up() error {
	same, err := sameFolder(w.cur, w.root)
	if err != nil || same {
		return err
	}
	fd, err := unix.Openat(w.cur, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	w.move(fd)
	return nil
}

// link follows the symbolic link fd, which it closes: it gives the text that
// replaces the element, or the descriptor that a link of /proc jumps to.
func (w *walker) link(fd int, name []byte) (next []byte, jumped int, err error) {
	defer unix.Close(fd)
	if w.links++; w.links > maxLinks {
		return nil, -1, unix.ELOOP
	}
	// Asked of its folder: a file system in user space may ask its own file by
	// name, and fail for a link that leads nowhere on its side.
	var fs unix.Statfs_t
	if err := unix.Fstatfs(w.cur, &fs); err != nil {
		return nil, -1, err
	}
	if fs.Type == unix.PROC_SUPER_MAGIC {
		// These two say who reads them, and that must be the task, not us.
		switch string(name) {
		case "self":
			return []byte(strconv.Itoa(w.task.TGID)), -1, nil
		case "thread-self":
			return []byte(strconv.Itoa(w.task.TGID) + "/task/" + strconv.Itoa(w.task.TID)), -1, nil
		}
		// The rest (cwd, root, fd/N) may lead where no text does.
		jumped, err := unix.Openat(w.cur, string(name), unix.O_PATH|unix.O_CLOEXEC, 0)
		return nil, jumped, err
	}
	buf := make([]byte, linkMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return nil, -1, err
	}
	if n == 0 {
		return nil, -1, unix.ENOENT
	}
	if buf[0] == '/' {
		if err := w.enter(w.root); err != nil {
			return nil, -1, err
		}
	}
	return buf[:n:n], -1, nil
}

// sameFolder compares identity and mount, of files too, as the kernel does for "..".
func sameFolder(a, b int) (bool, error) {
	const want = unix.STATX_INO | unix.STATX_MNT_ID
	var sa, sb unix.Statx_t
	if err := unix.Statx(a, "", unix.AT_EMPTY_PATH, want, &sa); err != nil {
		return false, err
	}
	if err := unix.Statx(b, "", unix.AT_EMPTY_PATH, want, &sb); err != nil {
		return false, err
	}
	return sa.Ino == sb.Ino && sa.Dev_major == sb.Dev_major && sa.Dev_minor == sb.Dev_minor && sa.Mnt_id == sb.Mnt_id, nil
}
