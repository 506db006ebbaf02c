package mount

import (
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAlone looks for what is done alone on the process's first thread, whose
// descriptors are those of /proc/self.
func TestAlone(t *testing.T) {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	// Many at once, so that the first thread has its turn.
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			err := alone(nil, func() error {
				if unix.Gettid() == os.Getpid() {
					t.Error("on the first thread")
				}
				runtime.Gosched()
				var st unix.Stat_t
				if err := unix.Fstat(fd, &st); err != nil {
					t.Errorf("a descriptor that was kept: %v", err)
				}
				if err := unix.Fstat(2, &st); err != unix.EBADF {
					t.Errorf("one that was not: %v", err)
				}
				return nil
			}, fd)
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := os.Readlink(procFD(fd)); err != nil {
		t.Error(err)
	}
}

// TestOpenAlone opens what it is told to.
func TestOpenAlone(t *testing.T) {
	root, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	fd, err := openAlone(root, "proc", unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if to, err := readlink(fd); err != nil || to != "/proc" {
		t.Errorf("leads to %q, %v", to, err)
	}
	if _, err := openAlone(root, "none", unix.O_PATH|unix.O_CLOEXEC); err != unix.ENOENT {
		t.Errorf("what is not there: %v", err)
	}
}
