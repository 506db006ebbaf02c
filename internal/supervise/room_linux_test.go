package supervise

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
)

func TestRoom(t *testing.T) {
	for _, row := range []struct {
		fd    int
		limit uint64
		want  bool
	}{
		{10, 80, true}, {59, 80, true}, {60, 80, false}, {79, 80, false},
		{767, 1024, true}, {768, 1024, false},
		{4095 - spare, 4096, true}, {4096 - spare, 4096, false},
		{1 << 30, unix.RLIM_INFINITY, true},
	} {
		if got := fitsIn(row.fd, row.limit); got != row.want {
			t.Errorf("descriptor %d of %d: %v, want %v", row.fd, row.limit, got, row.want)
		}
	}
}

func TestWanting(t *testing.T) {
	for _, row := range []struct {
		err  error
		want bool
	}{
		{unix.EMFILE, true}, {fmt.Errorf("open: %w", unix.ENFILE), true}, {unix.ENOMEM, true},
		{unix.ENOENT, false}, {unix.EACCES, false}, {errno.Errorf(errno.EBADF, errno.LayerGuest, "x"), false},
	} {
		if got := wanting(row.err); got != row.want {
			t.Errorf("%v: %v, want %v", row.err, got, row.want)
		}
	}
}
