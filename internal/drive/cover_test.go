package drive

import (
	"strings"
	"testing"
)

func TestCover(t *testing.T) {
	const kernel = `1 0 0:1 / / rw - rootfs rootfs rw
2 1 0:2 / / rw - ext4 a rw
3 2 0:3 / /mnt/c rw - 9p c rw
4 3 0:4 / /mnt/c rw - tmpfs over rw
5 4 0:5 / /mnt/c/x rw - tmpfs x rw
6 3 0:6 / /mnt/c/y rw - tmpfs hidden rw
8 9 0:8 / /moved rw - tmpfs moved-here-later rw
9 2 0:9 / /moved rw - tmpfs m rw
`
	// All with one parent, in the order in which somebody thought of them.
	const sloppy = `1 0 0:1 / / rw - ext4 a rw
2 1 0:2 / /mnt/c rw - 9p c rw
3 1 0:3 / /mnt/c/x rw - tmpfs x rw
4 1 0:4 / /mnt/d rw - 9p d rw
5 1 0:5 / /mnt/d rw - tmpfs over rw
6 1 0:6 / /mnt/e/f rw - 9p f rw
7 1 0:7 / /mnt/e rw - tmpfs over rw
`
	const alone = "60 28 0:50 / /mnt/c rw - 9p c rw\n"
	const fragment = alone + "68 28 0:55 / /mnt/c/x rw - tmpfs x rw\n"
	const cycle = "1 2 0:1 / / rw - x a rw\n2 1 0:1 / / rw - x b rw\n3 3 0:1 / /a rw - x c rw\n"
	tests := []struct {
		mounts, path string
		want         int // id, 0 for none
	}{
		{kernel, "/", 2}, {kernel, "/mnt", 2}, {kernel, "/mnt/cx", 2}, {kernel, "/mnt/c", 4},
		{kernel, "/mnt/c/x/z", 5}, {kernel, "/mnt/c/xx", 4}, {kernel, "/moved/a", 8},
		{sloppy, "/mnt/c/a", 2}, {sloppy, "/mnt/c/x/a", 3}, {sloppy, "/mnt/d/a", 5}, {sloppy, "/mnt/e/f/g", 7},
		{alone, "/mnt/c/a", 60}, {alone, "/mnt", 0}, {"", "/", 0},
		{fragment, "/mnt/c/a", 60}, {fragment, "/mnt/c/x/a", 68},
		{cycle, "/a/b", 3}, {cycle, "/b", 0},
	}
	for _, tt := range tests {
		mounts, err := ParseMounts(strings.NewReader(tt.mounts))
		if err != nil {
			t.Fatal(err)
		}
		m, ok := cover(mounts, tt.path)
		if m.ID != tt.want || ok != (tt.want != 0) {
			t.Errorf("cover(%q) = %d, %v, want %d in\n%s", tt.path, m.ID, ok, tt.want, tt.mounts)
		}
	}
}
