package drive

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
)

func TestLocateLeaksNothing(t *testing.T) {
	dir := mkdir(t, t.TempDir()+"/a/b/c")
	gone := mkdir(t, t.TempDir()+"/gone")
	fd, goneFD := openPath(t, dir), openPath(t, gone)
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	before := openFDs(t)
	for range 20 {
		m, err := OpenMounts()
		if err != nil {
			t.Fatal(err)
		}
		loc, err := Locate(fd, m.Lookup)
		if err != nil || !strings.HasSuffix(loc.Path, "/a/b/c") {
			t.Fatalf("Locate: %q, %v", loc.Path, err)
		}
		if _, err := Locate(goneFD, m.Lookup); !errors.Is(err, errno.ENOENT) {
			t.Fatalf("Locate of a deleted folder: %v", err)
		}
		if _, err := Locate(fd, func(uint64) (Mount, bool) { return Mount{}, false }); err != ErrUnknownMount {
			t.Fatalf("Locate without mounts: %v", err)
		}
		if _, err := Locate(-1, m.Lookup); !errors.Is(err, errno.EBADF) {
			t.Fatalf("Locate(-1): %v", err)
		}
		_ = m.Close()
	}
	if after := openFDs(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// The kernel is the oracle: each line that it writes is read, with the id that
// statx gives for the mount point, unless another mount covers it. In a namespace of its own nobody else mounts anything
// meanwhile.
func TestOwnMountinfo(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	m := newMounts(t)
	all := m.All()
	if lines := strings.Count(string(text), "\n"); lines != len(all) {
		t.Errorf("%d lines gave %d mounts", lines, len(all))
	}
	for _, mount := range all {
		top, ok := cover(all, mount.Point)
		if !ok {
			t.Errorf("no mount covers %s", mount.Point)
		}
		var st unix.Statx_t
		if unix.Statx(unix.AT_FDCWD, mount.Point, unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st) != nil {
			continue
		}
		if st.Mnt_id != uint64(top.ID) {
			t.Errorf("%s is on mount %d, cover says %d", mount.Point, st.Mnt_id, top.ID)
		}
		if got, ok := m.Lookup(st.Mnt_id); !ok || got != top {
			t.Errorf("Lookup(%d) = %v, %v", st.Mnt_id, got, ok)
		}
	}
}

// cover agrees with the kernel on mounts stacked, moved and hidden.
func TestCoverAgreesWithKernel(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := t.TempDir()
	for _, d := range []string{"a/b/c", "m", "n/o"} {
		mkdir(t, dir+"/"+d)
	}
	at := func(d string) { mkdir(t, dir+"/"+d); mount(t, d, dir+"/"+d, "tmpfs", 0) }
	at("m")
	at("a/b")
	at("a/b/c")
	at("a")
	at("a/b")
	at("n/o")
	at("n/o")
	at("n")
	if err := unix.Mount(dir+"/m", dir+"/a/b", "", unix.MS_MOVE, ""); err != nil {
		t.Fatal(err)
	}
	mkdir(t, dir+"/a/b/c")
	list := newMounts(t).All()
	for _, d := range []string{"", "a", "a/b", "a/b/c", "m", "n", "n/o"} {
		path := filepath.Join(dir, d)
		m, _ := cover(list, path)
		// Where the folder isn't there on top, its parent's mount is as good.
		for {
			if _, err := os.Stat(path); err == nil {
				break
			}
			path = filepath.Dir(path)
		}
		if id, err := mountOf(openPath(t, path)); err != nil || id != uint64(m.ID) {
			t.Errorf("%q is on mount %d (%v), cover says %d at %s", d, id, err, m.ID, m.Point)
		}
	}
}

func TestMountsFollowChanges(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	m := newMounts(t)
	dir := t.TempDir()
	for i := range 50 {
		mount(t, strconv.Itoa(i), dir, "tmpfs", 0)
		id, err := mountOf(openPath(t, dir))
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := m.Lookup(id); !ok || got.Source != strconv.Itoa(i) || got.Point != dir {
			t.Fatalf("mount %d, just made: %v, %v", id, got, ok)
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		if _, ok := m.Lookup(id); ok {
			t.Fatalf("mount %d is gone and still found", id)
		}
	}
}

func TestNewTableErrors(t *testing.T) {
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		o    Override
		want errno.Errno
	}{
		{Override{'C', file}, errno.ENOTDIR},
		{Override{'C', file + "none"}, errno.ENOENT},
	} {
		if _, err := NewTable(TableConfig{Overrides: []Override{tt.o}}); !errors.Is(err, tt.want) {
			t.Errorf("%v: error %v, want %v", tt.o, err, tt.want)
		}
	}
	if _, err := NewTable(TableConfig{Overrides: []Override{{'!', "/"}}}); err == nil {
		t.Error("a drive without a letter was taken")
	}
}

func BenchmarkResolve(b *testing.B) {
	dir := b.TempDir()
	for _, bb := range []struct {
		name string
		path string
	}{
		{"foreign mount", "/proc"},
		{"drive", dir + "/a/b/c/d"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			if err := os.MkdirAll(dir+"/a/b/c/d", 0o755); err != nil {
				b.Fatal(err)
			}
			r := newResolver(b, Override{'C', dir})
			fd, err := unix.Open(bb.path, unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				b.Fatal(err)
			}
			defer unix.Close(fd)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := r.Resolve(fd, os.Getpid()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
