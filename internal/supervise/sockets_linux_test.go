package supervise

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestIdentify tells a file under two names from another file that got its
// inode number later.
func TestIdentify(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	look := func(file string) (unix.Stat_t, fileID) {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(file, &st); err != nil {
			t.Fatal(err)
		}
		return st, identify(&st)
	}
	if err := os.WriteFile(a, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	st, made := look(a)
	if err := os.Link(a, b); err != nil {
		t.Fatal(err)
	}
	if _, got := look(b); got != made {
		t.Errorf("hard link is %+v, want %+v", got, made)
	}
	if err := os.Chmod(a, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, got := look(a); got != made {
		t.Errorf("after chmod it is %+v, want %+v", got, made)
	}
	later := time.Unix(0, st.Mtim.Nano()).Add(time.Second)
	if err := os.Chtimes(a, later, later); err != nil {
		t.Fatal(err)
	}
	if now, got := look(a); now.Ino != st.Ino || got == made {
		t.Errorf("with the same inode number and another time it is %+v, as before", got)
	}
}
