package portfile

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
)

func sameMode(got, want fs.FileMode) bool { return got == want }

func TestReadRefuses(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := unix.Mkfifo(at("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int{"long": MaxFile + 1, "full": MaxFile, "empty": 0} {
		if err := os.WriteFile(at(name), bytes.Repeat([]byte("x"), size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"tofifo": "fifo", "loop": "loop", "zero": "/dev/zero", "tty": "/dev/tty", "tofull": "full"} {
		if err := os.Symlink(to, at(link)); err != nil {
			t.Fatal(err)
		}
	}
	sock, err := net.Listen("unix", at("sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	for name, want := range map[string]errno.Errno{
		"": errno.ECONNREFUSED, "fifo": errno.ECONNREFUSED, "tofifo": errno.ECONNREFUSED, "zero": errno.ECONNREFUSED,
		"tty": errno.ECONNREFUSED, "long": errno.ECONNREFUSED, "empty": errno.ECONNREFUSED, "sock": errno.ECONNREFUSED,
		"missing": errno.ENOENT, "loop": errno.ELOOP, "full/x": errno.ENOTDIR, "full": 0, "tofull": 0,
	} {
		begin := time.Now()
		b, err := Read(t.Context(), at(name))
		var got errno.Errno
		if err != nil {
			got = errno.Of(errno.FromSystem(err, errno.LayerHost))
		}
		if got != want || err == nil && len(b) != MaxFile {
			t.Errorf("%s: %d bytes, %v, want %v", name, len(b), err, want)
		}
		if d := time.Since(begin); d > 3*time.Second {
			t.Errorf("%s took %v", name, d)
		}
	}
}

// A file in the making is waited for.
func TestReadWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		time.Sleep(30 * time.Millisecond)
		done <- os.WriteFile(path, []byte("now"), 0o600)
	}()
	if b, err := Read(t.Context(), path); string(b) != "now" {
		t.Errorf("%q, %v", b, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestModeAndOwner(t *testing.T) {
	cfg := plain(filepath.Join(t.TempDir(), "s"))
	cfg.Mode = 0o660
	uid := -1
	if os.Getuid() == 0 {
		uid = 12345
	}
	cfg.UID = uid
	l, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var st unix.Stat_t
	if err := unix.Stat(cfg.Path, &st); err != nil || st.Mode&0o7777 != 0o660 || uid >= 0 && st.Uid != uint32(uid) {
		t.Errorf("mode %o, uid %d, %v", st.Mode, st.Uid, err)
	}
}

// A stale file that another process is about to remove is left to it, so that two
// can't remove one after the other, the second what the first has made.
func TestStaleBeingRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	gone, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	stale := plain(path).Format(uint16(gone.Addr().(*net.TCPAddr).Port), Secret{1})
	if err := os.WriteFile(path, stale, 0o600); err != nil {
		t.Fatal(err)
	}
	other, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := unix.Flock(int(other.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if l, err := Listen(plain(path)); !errors.Is(err, errno.EADDRINUSE) {
		t.Errorf("%v, %v", l, err)
		_ = l.Close()
	}
	if b, err := os.ReadFile(path); !bytes.Equal(b, stale) {
		t.Errorf("the file is %q, %v", b, err)
	}
	if err := unix.Flock(int(other.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(plain(path))
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}

// TestStaleOfOthers: a stale file of another user stays, though root could remove it.
func TestStaleOfOthers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root makes files of others")
	}
	gone, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	for _, c := range []struct {
		name          string
		owner, wanted int
		wantErr       string
	}{
		{"another's", 12345, -1, "it belongs to uid 12345, though nobody listens there"},
		{"another's than wanted", 12345, 12346, "it belongs to uid 12345, though nobody listens there"},
		{"whose it shall be", 12345, 12345, ""},
		{"ours, and it shall be another's", 0, 12345, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := plain(filepath.Join(t.TempDir(), "s"))
			cfg.UID = c.wanted
			stale := cfg.Format(uint16(gone.Addr().(*net.TCPAddr).Port), Secret{1})
			if err := os.WriteFile(cfg.Path, stale, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(cfg.Path, c.owner, -1); err != nil {
				t.Fatal(err)
			}
			l, err := Listen(cfg)
			if l != nil {
				defer l.Close()
			}
			if c.wantErr == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, errno.EADDRINUSE) || !strings.Contains(err.Error(), c.wantErr) {
				t.Errorf("%v, %v", l, err)
			}
			if b, err := os.ReadFile(cfg.Path); !bytes.Equal(b, stale) {
				t.Errorf("the file is %q, %v", b, err)
			}
		})
	}
}

// What is in the way stays: a socket and a link.
func TestInTheWay(t *testing.T) {
	dir := t.TempDir()
	sock, err := net.Listen("unix", filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sock", "link", "."} {
		if l, err := Listen(plain(filepath.Join(dir, name))); !errors.Is(err, errno.EADDRINUSE) {
			t.Errorf("%s: %v, %v", name, l, err)
		}
	}
	if l, err := Listen(plain(filepath.Join(dir, "no", "s"))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v, %v", l, err)
	}
}
