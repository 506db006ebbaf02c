package mount

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/drive"
)

// fsType is what mountinfo has for the type of our mounts, and sourcePrefix what
// comes before the host's path in their source.
const (
	fsType       = "fuse." + subtype
	subtype      = "drvsock"
	sourcePrefix = "drvsock:"
)

const (
	// answerFor is how long a view may take to show that it is alive.
	answerFor = 5 * time.Second
	// maxLayers bounds the dead views at one folder that a repair takes away.
	maxLayers = 16
)

// ours lists the views in the mount table, those that nothing else is mounted over.
func ours() ([]drive.Mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := drive.ParseMounts(f)
	if err != nil {
		return nil, fmt.Errorf("mounts: %w", err)
	}
	// Of mounts at one point the last one is seen.
	seen := map[string]bool{}
	var list []drive.Mount
	for i := len(all) - 1; i >= 0; i-- {
		m := all[i]
		if !seen[m.Point] && m.FSType == fsType && strings.HasPrefix(m.Source, sourcePrefix) {
			list = append(list, m)
		}
		seen[m.Point] = true
	}
	slices.Reverse(list)
	return list, nil
}

// dead tells if nobody serves what is mounted at dir. One that doesn't answer is
// not dead: who stopped it may let it go on.
func dead(dir string) bool {
	answer := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		answer <- alone(nil, func() error { return unix.Statfs(dir, &st) })
	}()
	select {
	case err := <-answer:
		return err == unix.ENOTCONN || err == unix.ECONNABORTED
	case <-time.After(answerFor):
		return false
	}
}

func list() ([]Entry, error) {
	mounts, err := ours()
	if err != nil {
		return nil, err
	}
	entries := []Entry{}
	for _, m := range mounts {
		entries = append(entries, Entry{
			Dir: m.Point, HostPath: strings.TrimPrefix(m.Source, sourcePrefix), Dead: dead(m.Point),
		})
	}
	return entries, nil
}

// at tells if a view is mounted at dir, on top of whatever else.
func at(dir string) (bool, error) {
	mounts, err := ours()
	if err != nil {
		return false, err
	}
	for _, m := range mounts {
		if m.Point == dir {
			return true, nil
		}
	}
	return false, nil
}

// repair takes dead views at dir away. dir is absolute; it can't be looked into.
func repair(dir string, log *slog.Logger) error {
	dir, err := resolve(dir)
	if err != nil {
		return nil // there is nothing, or no way to it, which is said later
	}
	for range maxLayers {
		is, err := at(dir)
		if err != nil || !is || !dead(dir) {
			return err
		}
		log.Warn("taking away a view whose process died", "dir", dir)
		if err := detach(dir); err != nil {
			return err
		}
	}
	return nil
}

// resolve makes dir as mountinfo has it, without looking at dir itself, as a dead
// view can't be looked at.
func resolve(dir string) (string, error) {
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return "", err
	}
	return filepath.Join(parent, filepath.Base(dir)), nil
}

// notWithin tells if dir lies in no view. In one there is nothing to gain from
// another, and a process must not wait for a view of its own.
func notWithin(dir string) error {
	var sx unix.Statx_t
	err := alone(nil, func() error { return unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_MNT_ID, &sx) })
	if err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	list, err := ours()
	if err != nil {
		return err
	}
	for _, m := range list {
		if uint64(m.ID) == sx.Mnt_id {
			return fmt.Errorf("%s: %w", m.Point, ErrMounted)
		}
	}
	return nil
}

func unmount(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	full, err := resolve(dir)
	if err != nil {
		return err
	}
	is, err := at(full)
	if err == nil && !is {
		// A link that leads to one.
		if full, err = filepath.EvalSymlinks(dir); err == nil {
			is, err = at(full)
		}
	}
	if err != nil {
		return err
	}
	if !is {
		return fmt.Errorf("%s: %w", dir, ErrNotMounted)
	}
	return detach(full)
}

// detach takes the mount at dir out of the tree of mounts.
func detach(dir string) error {
	var err error
	if os.Geteuid() == 0 {
		err = unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	} else {
		ctx, cancel := context.WithTimeout(context.Background(), answerFor)
		defer cancel()
		cmd := exec.CommandContext(ctx, "fusermount3", "-u", "-z", dir)
		out, e := cmd.CombinedOutput()
		if err = e; e != nil {
			err = fmt.Errorf("%w: %s", e, bytes.TrimSpace(out))
		}
	}
	if err == unix.EINVAL || err != nil && !stillAt(dir) {
		return fmt.Errorf("%s: %w", dir, ErrNotMounted)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

func stillAt(dir string) bool {
	is, err := at(dir)
	return is || err != nil
}
