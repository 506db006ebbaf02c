package supervise

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFindEnd gives one end of a connection to a child of a child and finds it
// there, and not once it is gone.
func TestFindEnd(t *testing.T) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	theirs := os.NewFile(uintptr(p[1]), "theirs")
	var own, other unix.Stat_t
	if err := unix.Fstat(p[0], &own); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fstat(p[1], &other); err != nil {
		t.Fatal(err)
	}
	if i, err := peerOf(own.Ino); err != nil || uint64(i) != other.Ino {
		t.Skipf("no sock_diag for AF_UNIX: %d, %v", i, err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "cat <&3 >/dev/null & exec cat 3<&-")
	cmd.ExtraFiles = []*os.File{theirs}
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	found := func() bool {
		time.Sleep(rescanAfter + 10*time.Millisecond)
		end, ok := findEnd(own.Ino)
		if !ok {
			return false
		}
		fd, ok := end.socketAt()
		if ok {
			_ = unix.Close(fd)
		}
		return ok && end.inode == other.Ino
	}
	if !found() {
		t.Error("the other end is not found")
	}
	// Ends the inner program, then the outer one.
	if err := unix.Shutdown(p[0], unix.SHUT_WR); err != nil {
		t.Error(err)
	}
	in.Close()
	_ = cmd.Wait()
	if found() {
		t.Error("the other end is found in a program that ended")
	}
}
