package forward

import (
	"os"

	"golang.org/x/sys/unix"
)

// ownerOf gives the uid that a folder belongs to.
func ownerOf(dir string) (int, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	return int(st.Uid), nil
}
