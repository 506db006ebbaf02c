package control

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"drvsock/internal/report"
)

// TestPlace has the folder where the environment says, if that is the user's own.
func TestPlace(t *testing.T) {
	own, open, run := t.TempDir(), t.TempDir(), t.TempDir()
	uid := os.Geteuid()
	for dir, mode := range map[string]os.FileMode{own: 0o700, open: 0o777} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(own, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	temp := func(dir string) string { return filepath.Join(dir, "drvsock-"+strconv.Itoa(uid)) }
	cases := []struct {
		name, xdg, tmp, want string
	}{
		{"XDG_RUNTIME_DIR", own, "/t", own + "/drvsock"},
		{"none", "", "/t", temp("/t")},
		{"no TMPDIR either", "", "", temp("/tmp")},
		{"a relative TMPDIR", "", "t", temp("/tmp")},
		{"a relative one", ".", "", temp("/tmp")},
		{"one that isn't there", own + "/none", "", temp("/tmp")},
		{"no folder", file, "", temp("/tmp")},
		{"open to all, as WSLg's", open, "", temp("/tmp")},
	}
	for _, c := range cases {
		env := map[string]string{"XDG_RUNTIME_DIR": c.xdg, "TMPDIR": c.tmp}
		if got := place(func(n string) string { return env[n] }, uid, run); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if got, want := place(func(string) string { return "" }, uid+1, run), "/tmp/drvsock-"+strconv.Itoa(uid+1); got != want {
		t.Errorf("another user: %s, want %s", got, want)
	}
	if got, want := place(func(n string) string { return map[string]string{"XDG_RUNTIME_DIR": own}[n] }, uid+1, run), "/tmp/drvsock-"+strconv.Itoa(uid+1); got != want {
		t.Errorf("with another user's XDG_RUNTIME_DIR: %s, want %s", got, want)
	}
	sub := filepath.Join(run, strconv.Itoa(uid))
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	if got, want := place(func(string) string { return "" }, uid, run), sub+"/drvsock"; got != want {
		t.Errorf("by the user's number: %s, want %s", got, want)
	}
}

// TestFolder refuses what isn't the user's alone.
func TestFolder(t *testing.T) {
	dir, uid := t.TempDir(), os.Geteuid()
	path := filepath.Join(dir, "drvsock")
	if _, err := openFolder(path, uid, false); !errors.Is(err, ErrNone) {
		t.Errorf("not there: %v, want ErrNone", err)
	}
	f, err := openFolder(path, uid, true)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if st, err := os.Stat(path); err != nil || st.Mode() != os.ModeDir|0o700 {
		t.Errorf("made as %v, %v", st.Mode(), err)
	}
	refuse := func(name, want string) {
		t.Helper()
		for _, make := range []bool{false, true} {
			f, err := openFolder(path, uid, make)
			if err == nil {
				f.Close()
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want an error about %q", name, err, want)
			}
			if strings.Contains(want, "mode") && report.HintOf(err) != "chmod 700 "+path {
				t.Errorf("%s: hint %q", name, report.HintOf(err))
			}
		}
	}
	for _, mode := range []os.FileMode{0o710, 0o701, 0o720, 0o777} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		refuse(mode.String(), "others could get in")
	}
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if uid == 0 {
		if err := os.Chown(path, 44001, -1); err != nil {
			t.Fatal(err)
		}
		refuse("another's", "belongs to user 44001, not to user 0")
	}
	if err := os.Rename(path, path+".real"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path+".real", path); err != nil {
		t.Fatal(err)
	}
	if uid == 0 {
		if err := os.Chown(path+".real", 0, -1); err != nil {
			t.Fatal(err)
		}
	}
	refuse("a link", "is no folder")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refuse("a file", "is no folder")
}

// TestLock lets one have it, and the next when that one is gone.
func TestLock(t *testing.T) {
	f := folder(t)
	l, err := f.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Lock(); !errors.Is(err, ErrLocked) {
		t.Errorf("a second one: %v, want ErrLocked", err)
	}
	l.Close()
	if l, err = f.Lock(); err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func folder(t *testing.T) *Folder {
	t.Helper()
	f, err := openFolder(filepath.Join(searchable(t), "drvsock"), os.Geteuid(), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

// searchable makes a folder to which the way is open to all, as it may not be in
// TMPDIR.
func searchable(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "control")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
