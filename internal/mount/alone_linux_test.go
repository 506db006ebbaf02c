package mount

import (
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

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
	other, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(other)
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
				if err := unix.Fstat(other, &st); err != unix.EBADF {
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

// TestAloneWakesPoller has the runtime tell its poller of a timer from such a
// thread, as it may at the end of any: it would end the process if it could not.
func TestAloneWakesPoller(t *testing.T) {
	for i := range 200 {
		time.Sleep(100 * time.Microsecond) // in which the poller goes to sleep
		err := alone(nil, func() error {
			time.AfterFunc(time.Duration(i%20+1)*time.Millisecond, func() {}).Stop()
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
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
