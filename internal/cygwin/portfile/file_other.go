//go:build !windows

package portfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// open opens path so that neither a FIFO nor a terminal that has taken the place
// of a file holds up or gets hold of this process.
func open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
}

// sharing reports whether err says that another has the file to itself for now.
func sharing(error) bool { return false }

// write makes a file beside cfg.Path that holds text and returns its name.
func write(cfg *Config, text []byte) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(cfg.Path), ".drvsock-*.tmp") // 0600
	if err != nil {
		return "", err
	}
	_, err = f.Write(text)
	if err == nil && (cfg.UID != -1 || cfg.GID != -1) {
		err = f.Chown(cfg.UID, cfg.GID)
	}
	// After the owner: chown takes bits away.
	if err == nil && cfg.Mode != 0 {
		err = f.Chmod(cfg.Mode.Perm())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// place gives the file temp the name path if that is free, else fs.ErrExist.
func place(temp, path string) error {
	err := os.Link(temp, path)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	// A file system without hard links (FAT) answers EPERM.
	if _, looked := os.Lstat(path); !errors.Is(looked, fs.ErrNotExist) {
		return err
	}
	return os.Rename(temp, path)
}

// removeIf removes the file at path if it holds text. The lock is the file's own:
// of two that find the same one only one at a time acts on it, and what takes its
// place is another file.
func removeIf(path string, text []byte) error {
	f, err := open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == syscall.EWOULDBLOCK {
		return nil
	}
	locked, err := f.Stat()
	if err != nil {
		return err
	}
	now, err := os.Lstat(path)
	if err != nil {
		return err
	}
	b := make([]byte, len(text)+1)
	if n, err := readFull(f, b); err != nil || !os.SameFile(locked, now) || !bytes.Equal(b[:n], text) {
		return err
	}
	return os.Remove(path)
}

// stranger says whose the file st is if it belongs neither to this process's user
// nor to whom temp was given.
func stranger(st fs.FileInfo, temp string) string {
	old, known := st.Sys().(*syscall.Stat_t)
	if !known || int(old.Uid) == os.Geteuid() {
		return ""
	}
	if now, err := os.Lstat(temp); err == nil && now.Sys().(*syscall.Stat_t).Uid == old.Uid {
		return ""
	}
	return fmt.Sprintf("uid %d", old.Uid)
}

func exclusive(syscall.RawConn) error { return nil }
