package standin

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	Main()
	asUser()
	goleak.VerifyTestMain(m)
}

// host returns a folder that plays the host's drive and a mounted view of it,
// and checks at the end that nothing of the mount is left.
func host(t *testing.T, opts Options) (dir, view string) {
	t.Helper()
	return hostBy(t, Mount, opts)
}

func hostBy(t *testing.T, mount func(string, string, Options) (*FS, error), opts Options) (dir, view string) {
	t.Helper()
	dir, view = folder(t, "dir"), folder(t, "view")
	needFuse(t)
	fds := descriptors(t)
	f, err := mount(dir, view, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Unmount(); err != nil {
			t.Error(err)
		}
		if mounted(t, view) {
			t.Errorf("%s is still mounted", view)
		}
		if got := descriptors(t); got > fds {
			t.Errorf("%d descriptors after the unmount, %d before the mount", got, fds)
		}
	})
	if got, want := f.View(), view; got != want {
		t.Errorf("View() = %s, want %s", got, want)
	}
	return dir, view
}

// folder makes a folder with a short path that any user may search, which the
// folders of t.TempDir are not.
func folder(t *testing.T, name string) string {
	t.Helper()
	base, err := os.MkdirTemp("/tmp", "standin")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(base); err != nil {
			t.Error(err)
		}
	})
	p := filepath.Join(base, name)
	for _, err := range []error{os.Chmod(base, 0o755), os.Mkdir(p, 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func needFuse(t *testing.T) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("/dev/fuse: %v", err)
	}
	unix.Close(fd)
}

func mounted(t *testing.T, view string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(b), " "+view+" ")
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func listen(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// connects reports the errno that connecting to path gives.
func connects(path string) error {
	c, err := net.DialTimeout("unix", path, 5*time.Second)
	if err == nil {
		c.Close()
	}
	return number(err)
}

// binds reports the errno that binding a socket to path gives.
func binds(path string) error {
	l, err := net.Listen("unix", path)
	if err == nil {
		l.Close()
	}
	return number(err)
}

func number(err error) error {
	var n syscall.Errno
	if errors.As(err, &n) {
		return n
	}
	return err
}

func TestSockets(t *testing.T) {
	for _, c := range []struct {
		name    string
		opts    Options
		bind    error
		connect error
		mode    os.FileMode
	}{
		{"default", Options{}, unix.EOPNOTSUPP, unix.ECONNREFUSED, 0},
		{"sockets shown", Options{ShowSockets: true}, unix.EOPNOTSUPP, unix.ECONNREFUSED, os.ModeSocket},
		{"virtiofs", Options{Refusal: unix.EPERM}, unix.EPERM, unix.ECONNREFUSED, 0},
		{"metadata", Options{Metadata: true}, nil, unix.ECONNREFUSED, os.ModeSocket},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, view := host(t, c.opts)
			listen(t, filepath.Join(dir, "host.sock"))
			if err := connects(filepath.Join(dir, "host.sock")); err != nil {
				t.Fatalf("the host's own connect: %v", err)
			}
			seen := filepath.Join(view, "host.sock")
			if got := connects(seen); got != c.connect {
				t.Errorf("connect = %v, want %v", got, c.connect)
			}
			st, err := os.Stat(seen)
			if err != nil {
				t.Fatal(err)
			}
			if got := st.Mode().Type(); got != c.mode {
				t.Errorf("type = %v, want %v", got, c.mode)
			}
			if got := binds(filepath.Join(view, "guest.sock")); got != c.bind {
				t.Errorf("bind = %v, want %v", got, c.bind)
			}
			if got := binds(seen); got != unix.EADDRINUSE {
				t.Errorf("bind to a name in use = %v, want EADDRINUSE", got)
			}
			if got := connects(filepath.Join(view, "none.sock")); got != unix.ENOENT {
				t.Errorf("connect to no file = %v, want ENOENT", got)
			}
			if got, want := unix.Mknod(filepath.Join(view, "fifo"), unix.S_IFIFO|0o600, 0), c.bind; number(got) != want {
				t.Errorf("mkfifo = %v, want %v", got, want)
			}
			if got := unix.Mknod(filepath.Join(view, "file"), unix.S_IFREG|0o600, 0); got != nil {
				t.Errorf("mknod of a regular file = %v", got)
			}
		})
	}
}

func TestMetadataServesGuest(t *testing.T) {
	_, view := host(t, Options{Metadata: true})
	path := filepath.Join(view, "guest.sock")
	listen(t, path)
	if err := connects(path); err != nil {
		t.Errorf("connect of guest to guest: %v", err)
	}
}

func TestNamesReachHost(t *testing.T) {
	dir, view := host(t, Options{})
	listen(t, filepath.Join(dir, "a.sock"))
	if err := os.Rename(filepath.Join(view, "a.sock"), filepath.Join(view, "b.sock")); err != nil {
		t.Fatal(err)
	}
	if err := connects(filepath.Join(dir, "b.sock")); err != nil {
		t.Errorf("the host's connect after the guest's rename: %v", err)
	}
	if err := os.Remove(filepath.Join(view, "b.sock")); err != nil {
		t.Fatal(err)
	}
	if got := connects(filepath.Join(dir, "b.sock")); got != unix.ENOENT {
		t.Errorf("the host's connect after the guest's unlink = %v, want ENOENT", got)
	}
}

// TestFiles does the same on a plain folder and in a view; the results agree.
func TestFiles(t *testing.T) {
	_, view := host(t, Options{})
	got, want := files(t, view), files(t, folder(t, "plain"))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("view differs from a plain folder (-want +got):\n%s", diff)
	}
}

func files(t *testing.T, root string) (log []string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(root, name) }
	note := func(what string, v any, err error) {
		s := what + ": " + strings.ReplaceAll(strings.TrimSpace(toText(v)), root, "ROOT")
		if err != nil {
			s += " " + number(err).Error()
		}
		log = append(log, s)
	}
	old := unix.Umask(0o027)
	note("mkdir", "", os.Mkdir(at("d"), 0o775))
	note("write", "", os.WriteFile(at("d/f"), []byte("hello"), 0o666))
	unix.Umask(old)
	note("excl", "", func() error { _, err := os.OpenFile(at("d/f"), os.O_CREATE|os.O_EXCL, 0o600); return err }())
	f, err := os.OpenFile(at("d/f"), os.O_APPEND|os.O_WRONLY, 0)
	note("append", "", err)
	if err == nil {
		_, err = io.WriteString(f, " world")
		note("append", "", errors.Join(err, f.Close()))
	}
	b, err := os.ReadFile(at("d/f"))
	note("read", string(b), err)
	note("truncate", "", os.Truncate(at("d/f"), 3))
	note("symlink", "", os.Symlink("d/f", at("l")))
	target, err := os.Readlink(at("l"))
	note("readlink", target, err)
	b, err = os.ReadFile(at("l"))
	note("read by link", string(b), err)
	note("link", "", os.Link(at("d/f"), at("h")))
	note("chmod", "", os.Chmod(at("h"), 0o604))
	st, err := os.Stat(at("d/f"))
	note("stat", st.Mode().String(), err)
	st, err = os.Stat(at("d"))
	note("stat of folder", st.Mode().String(), err)
	note("utime", "", os.Chtimes(at("h"), time.Unix(5, 0), time.Unix(7, 0)))
	st, err = os.Stat(at("d/f"))
	note("mtime", st.ModTime().UTC().String(), err)
	note("rmdir", "", unix.Rmdir(at("d")))
	note("rename", "", os.Rename(at("d/f"), at("g")))
	note("rmdir", "", unix.Rmdir(at("d")))
	list, err := os.ReadDir(root)
	for _, e := range list {
		note("entry", e.Name()+" "+e.Type().String(), nil)
	}
	note("list", "", err)
	note("not a folder", "", number(os.WriteFile(at("g/x"), nil, 0o600)))
	return log
}

func toText(v any) string { s, _ := v.(string); return s }

func TestHostChangesShowAtOnce(t *testing.T) {
	dir, view := host(t, Options{})
	h, g := filepath.Join(dir, "x"), filepath.Join(view, "x")
	for i, text := range []string{"1", "two", "3"} {
		if err := os.WriteFile(h, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(g); err != nil || string(got) != text {
			t.Errorf("round %d: read %q, %v, want %q", i, got, err, text)
		}
		if err := os.Chmod(h, 0o640); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(g); err != nil || st.Mode() != 0o640 {
			t.Errorf("round %d: mode of %v, %v, want 0640", i, st, err)
		}
		if err := os.Remove(h); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(g); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("round %d: stat after the host's unlink: %v, want ENOENT", i, err)
		}
		// The name returns as something else: a file one round, a socket the next.
		listen(t, h).Close()
	}
}

func TestFixed(t *testing.T) {
	_, view := host(t, Options{Fixed: &Fixed{UID: 1000, GID: 1001, Umask: 0o022}})
	p := filepath.Join(view, "f")
	if err := os.WriteFile(p, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(p, 0o777), os.Chown(p, 5, 5)); err != nil {
		t.Errorf("chmod, chown: %v, want nil", err)
	}
	for _, name := range []string{"f", ""} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(view, name), &st); err != nil {
			t.Fatal(err)
		}
		if st.Uid != 1000 || st.Gid != 1001 || st.Mode&0o7777 != 0o755 {
			t.Errorf("%q: %d:%d %o, want 1000:1001 755", name, st.Uid, st.Gid, st.Mode&0o7777)
		}
	}
}

func TestEscapedNames(t *testing.T) {
	dir, view := host(t, Options{EscapeNames: true})
	disk := filepath.Join(dir, "a\uf03ab")
	if err := os.WriteFile(filepath.Join(view, "a:b"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(disk); err != nil {
		t.Errorf("on disk: %v", err)
	}
	list, err := os.ReadDir(view)
	if err != nil || len(list) != 1 || list[0].Name() != "a:b" {
		t.Errorf("ReadDir = %v, %v, want a:b", list, err)
	}
	for _, err := range []error{
		os.Rename(filepath.Join(view, "a:b"), filepath.Join(view, "c?")),
		os.Link(filepath.Join(view, "c?"), filepath.Join(view, "d*")),
		os.Symlink("c?", filepath.Join(view, "e|")),
		os.Mkdir(filepath.Join(view, "f<"), 0o755),
		os.Remove(filepath.Join(view, "f<")),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"c\uf03f", "d\uf02a", "e\uf07c"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

func TestRefusesFolders(t *testing.T) {
	dir, view := folder(t, "dir"), folder(t, "view")
	sub := filepath.Join(view, "sub")
	file := filepath.Join(dir, "file")
	if err := errors.Join(os.Mkdir(sub, 0o755), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir, view string
		want      error
	}{
		{view, view, unix.EINVAL},
		{sub, view, unix.EINVAL},
		{filepath.Join(dir, "none"), view, unix.ENOENT},
		{dir, file, unix.ENOTDIR},
	} {
		for _, mount := range []func(string, string, Options) (*FS, error){Mount, Spawn} {
			f, err := mount(c.dir, c.view, Options{})
			if !errors.Is(err, c.want) {
				t.Errorf("mount of %s at %s: %v, want %v", c.dir, c.view, err, c.want)
			}
			if err == nil {
				f.Unmount()
			}
		}
	}
}
