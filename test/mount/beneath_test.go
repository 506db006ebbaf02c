//go:build linux

package mount

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// TestChangedBeneath has the host move files about that programs use in the view.
func TestChangedBeneath(t *testing.T) {
	f := newFolders(t, 0)
	at := func(name string) (view, beneath string) {
		return filepath.Join(f.view, name), filepath.Join(f.beneath, name)
	}
	write := func(t *testing.T, name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(t *testing.T, name, want string) {
		t.Helper()
		// What the kernel knows is good for a second.
		until(t, name, func() bool { b, err := os.ReadFile(name); return err == nil && string(b) == want })
	}
	t.Run("replaced while open", func(t *testing.T) {
		view, beneath := at("replaced")
		write(t, view, "old")
		file, err := os.OpenFile(view, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		write(t, beneath+"2", "newer")
		if err := os.Rename(beneath+"2", beneath); err != nil {
			t.Fatal(err)
		}
		st, err := file.Stat()
		if err != nil || st.Size() != 3 {
			t.Errorf("fstat of the old file: %v, %v", st, err)
		}
		if err := errors.Join(file.Chmod(0o600), unix.Fsetxattr(int(file.Fd()), "user.x", []byte("x"), 0), file.Truncate(2)); err != nil {
			t.Errorf("changes of the old file: %v", err)
		}
		if b, err := io.ReadAll(file); err != nil || string(b) != "ol" {
			t.Errorf("the old file holds %q, %v", b, err)
		}
		holds(t, view, "newer")
	})
	t.Run("removed while open", func(t *testing.T) {
		view, beneath := at("removed")
		write(t, view, "old")
		file, err := os.Open(view)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if err := os.Remove(beneath); err != nil {
			t.Fatal(err)
		}
		// The next file may get the number of this one.
		write(t, beneath, "another")
		if b, err := io.ReadAll(file); err != nil || string(b) != "old" {
			t.Errorf("the old file holds %q, %v", b, err)
		}
		holds(t, view, "another")
	})
	t.Run("one of two names", func(t *testing.T) {
		view, beneath := at("one")
		write(t, beneath, "both")
		if err := os.Link(beneath, beneath+"2"); err != nil {
			t.Fatal(err)
		}
		for _, n := range []string{view + "2", view} {
			holds(t, n, "both")
		}
		if err := os.Remove(beneath); err != nil {
			t.Fatal(err)
		}
		holds(t, view+"2", "both")
		if err := os.Chmod(view+"2", 0o640); err != nil {
			t.Error(err)
		}
	})
	t.Run("in a moved folder", func(t *testing.T) {
		view, beneath := at("folder")
		if err := os.MkdirAll(view+"/in", 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, view+"/in/file", "text")
		holds(t, view+"/in/file", "text")
		if err := os.Rename(beneath, beneath+"2"); err != nil {
			t.Fatal(err)
		}
		holds(t, view+"2/in/file", "text")
		if err := os.Rename(view+"2/in", view+"2/out"); err != nil {
			t.Fatal(err)
		}
		holds(t, view+"2/out/file", "text")
		if err := os.Chmod(view+"2/out/file", 0o600); err != nil {
			t.Error(err)
		}
	})
	for name, remove := range map[string]func(string) error{
		"by rmdir": unix.Rmdir,
		"by rename": func(name string) error {
			return errors.Join(unix.Mkdir(name+"3", 0o755), unix.Rename(name+"3", name))
		},
		"by rename of a moved one": func(name string) error {
			return errors.Join(unix.Rename(name, name+"3"), unix.Rmdir(name+"3"))
		},
	} {
		t.Run("another folder removed "+name, func(t *testing.T) {
			view, beneath := at("swapped " + name)
			if err := os.Mkdir(beneath, 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, beneath+"/file", "text")
			holds(t, view+"/file", "text")
			used, err := os.Open(view) // so that the kernel doesn't forget it
			if err != nil {
				t.Fatal(err)
			}
			defer used.Close()
			// The kernel doesn't look again before it removes.
			if err := errors.Join(os.Rename(beneath, beneath+"2"), os.Mkdir(beneath, 0o755), remove(view)); err != nil {
				t.Fatal(err)
			}
			holds(t, view+"2/file", "text")
			if l, err := os.ReadDir(view + "2"); err != nil || len(l) != 1 {
				t.Errorf("the folder that is still there: %v, %v", l, err)
			}
			write(t, view+"2/new", "text")
		})
	}
	t.Run("another kind", func(t *testing.T) {
		view, beneath := at("kind")
		write(t, beneath, "file")
		holds(t, view, "file")
		for _, fn := range []func() error{
			func() error { return os.Symlink("none", beneath) },
			func() error { return os.Mkdir(beneath, 0o755) },
			func() error { return unix.Mkfifo(beneath, 0o644) },
		} {
			if err := errors.Join(os.Remove(beneath), fn()); err != nil {
				t.Fatal(err)
			}
			want, err := os.Lstat(beneath)
			if err != nil {
				t.Fatal(err)
			}
			until(t, fmt.Sprint("seen as ", want.Mode()), func() bool {
				got, err := os.Lstat(view)
				return err == nil && got.Mode() == want.Mode()
			})
		}
	})
}

// TestAppend has a program in the view and one of the host append to one file in
// turns, as to a log, while a third reads it in the view.
func TestAppend(t *testing.T) {
	for name, uid := range map[string]uint32{"by the kernel": 0, "by the mount": rig.Nobody} {
		t.Run(name, func(t *testing.T) {
			f := newFolders(t, uid)
			err := byThread(uid, func() error { return appends(f.view+"/log", f.beneath+"/log") })
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func appends(view, beneath string) error {
	const flags = unix.O_APPEND | unix.O_CREAT | unix.O_CLOEXEC
	a, err := unix.Open(view, flags|unix.O_WRONLY, 0o444) // which can be opened once only
	if err != nil {
		return err
	}
	defer unix.Close(a)
	if err := os.Chmod(beneath, 0o644); err != nil {
		return err
	}
	b, err := unix.Open(beneath, flags|unix.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(b)
	c, err := unix.Open(view, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(c)
	var want []byte
	for i := range 200 {
		for fd, who := range map[int]string{a: "view", b: "host"} {
			line := fmt.Sprintf("%s %d\n", who, i)
			if _, err := unix.Write(fd, []byte(line)); err != nil {
				return err
			}
			want = append(want, line...)
		}
		if i%20 != 0 {
			continue
		}
		// What the program itself has written last, it sees at once.
		if _, err := unix.Write(a, []byte("!\n")); err != nil {
			return err
		}
		want = append(want, "!\n"...)
		for _, name := range []string{beneath, view} {
			if got, err := os.ReadFile(name); err != nil || string(got) != string(want) {
				return fmt.Errorf("after round %d %s holds %q, %v, want %q", i, name, got, err, want)
			}
		}
	}
	// Pages of a mapping go where they belong.
	m, err := unix.Mmap(c, 0, len(want), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	m[0], want[0] = '#', '#'
	if err := errors.Join(unix.Msync(m, unix.MS_SYNC), unix.Munmap(m)); err != nil {
		return err
	}
	if got, err := os.ReadFile(beneath); err != nil || string(got) != string(want) {
		return fmt.Errorf("after a change by mapping: %q, %v, want %q", got, err, want)
	}
	return nil
}

// TestFewDescriptors walks a tree with more folders than the mount may have
// descriptors: some can't be entered, but all else goes on, and the mount ends as
// it should.
func TestFewDescriptors(t *testing.T) {
	for name, uid := range map[string]uint32{"root": 0, "own": rig.Nobody} {
		t.Run(name, func(t *testing.T) {
			f := bareFolders(t, uid)
			m := f.command(t, uid)
			m.Cmd.Args = append([]string{need(t, "prlimit"), "--nofile=200"}, m.Cmd.Args...)
			if uid == 0 { // who could give himself more
				m.Cmd.Args = append([]string{need(t, "setpriv"), "--bounding-set=-sys_resource"}, m.Cmd.Args...)
			}
			m.Cmd.Path = m.Cmd.Args[0]
			m.Start()
			for i := range 500 {
				dir := fmt.Sprintf("%s/%d", f.beneath, i)
				if err := errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, int(uid), int(uid))); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(f.beneath+"/file", []byte("text"), 0o644); err != nil {
				t.Fatal(err)
			}
			echo(t, f.beneath+"/h")
			if err := os.Chmod(f.beneath+"/h", 0o777); err != nil {
				t.Fatal(err)
			}
			err := byThread(uid, func() error {
				none := 0
				for i := range 500 {
					var st unix.Stat_t
					switch err := unix.Stat(fmt.Sprintf("%s/%d", f.view, i), &st); err {
					case nil:
					case unix.EMFILE:
						none++
					default:
						return err
					}
				}
				if none == 0 {
					return errors.New("there are enough descriptors")
				}
				b, err := os.ReadFile(f.view + "/file")
				if err == nil && string(b) != "text" {
					err = fmt.Errorf("the file holds %q", b)
				}
				l, lerr := net.Listen("unix", f.view+"/n")
				if lerr == nil {
					l.Close()
				}
				return errors.Join(err, os.WriteFile(f.view+"/0/new", nil, 0o644), lerr, answers(f.view+"/h"))
			})
			if err != nil {
				t.Error(err)
			}
			m.End()
		})
	}
}

// TestDescriptors shows that the mount doesn't keep a descriptor for each file
// that the kernel knows.
func TestDescriptors(t *testing.T) {
	f, m := newView(t, 0)
	for i := range 2000 {
		if err := os.WriteFile(fmt.Sprintf("%s/%d", f.view, i), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "few descriptors", func() bool {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.Cmd.Process.Pid))
		return err == nil && len(fds) < 100
	})
	file, err := os.Create(f.view + "/held")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := errors.Join(os.Remove(f.view+"/held"), file.Chmod(0o600)); err != nil {
		t.Error(err)
	}
	if st, err := file.Stat(); err != nil || st.Sys().(*syscall.Stat_t).Nlink != 0 || st.Mode().Perm() != 0o600 {
		t.Errorf("an open file without a name: %v, %v", st, err)
	}
}
