package config

import (
	"io/fs"
	"os"
	"syscall"
)

// giveTo gives t the owner and group of old, if it has others: under sudo, a user's
// file would become root's, and the user could not read it any more.
func giveTo(t *os.File, old fs.FileInfo) error {
	now, err := t.Stat()
	if err != nil {
		return err
	}
	is, want := now.Sys().(*syscall.Stat_t), old.Sys().(*syscall.Stat_t)
	if is.Uid == want.Uid && is.Gid == want.Gid {
		return nil
	}
	return t.Chown(int(want.Uid), int(want.Gid))
}
