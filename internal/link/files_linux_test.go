package link

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFilesOwnFlags has somebody else who shares the pipe clear O_NONBLOCK: a
// Write that waits must still end by Close, and that somebody must not have
// found it set.
func TestFilesOwnFlags(t *testing.T) {
	r, ow, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	or, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer or.Close()
	defer ow.Close()
	_ = w.Fd() // blocking, as a program's standard output is
	shared, err := unix.FcntlInt(w.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(shared)
	p, err := Files(r, w)
	if err != nil {
		t.Fatal(err)
	}
	if flags, err := unix.FcntlInt(uintptr(shared), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("the shared open file has flags %#x, %v, want no O_NONBLOCK", flags, err)
	}
	if err := unix.SetNonblock(shared, false); err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() {
		_, err := p.Write(make([]byte, 1<<20))
		over <- err
	}()
	time.Sleep(20 * time.Millisecond) // the pipe is full
	go p.Close()
	select {
	case err := <-over:
		if err == nil {
			t.Error("a megabyte was written, and nobody read")
		}
	case <-time.After(5 * time.Second):
		_ = or.Close() // ends it
		t.Error("Close doesn't end a Write")
	}
}
