package standin

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// detach takes a busy view out of the tree of mounts.
func detach(view string) error {
	if os.Geteuid() == 0 {
		return unix.Unmount(view, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "fusermount3", "-u", "-z", view).CombinedOutput()
	if err != nil {
		return fmt.Errorf("fusermount3: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
