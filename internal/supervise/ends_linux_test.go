package supervise

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// given is a connection of which a program that a child of ours started has one
// end, as its descriptor 3.
type given struct {
	own, other uint64 // inodes
	fd         int    // ours
	in         io.WriteCloser
	out        *bufio.Reader
	cmd        *exec.Cmd
}

// give starts a program by a shell that runs script.
func give(t *testing.T, script string) *given {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(p[0]) })
	theirs := os.NewFile(uintptr(p[1]), "theirs")
	defer theirs.Close()
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
	g := &given{own: own.Ino, other: other.Ino, fd: p[0], cmd: exec.CommandContext(t.Context(), "sh", "-c", script)}
	g.cmd.ExtraFiles = []*os.File{theirs}
	g.in, err = g.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := g.cmd.StdoutPipe()
	if err == nil {
		err = g.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	g.out = bufio.NewReader(out)
	t.Cleanup(func() {
		_ = g.in.Close()
		_ = g.cmd.Wait()
	})
	return g
}

func (g *given) found() bool {
	fd, ok := (&conn{own: g.own}).end()
	if !ok {
		return false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Ino == g.other
}

// TestFindEnd finds the other end in a child of a child, and not once it is gone.
func TestFindEnd(t *testing.T) {
	g := give(t, "cat <&3 >/dev/null & exec 3<&-; echo given; exec cat")
	if s, err := g.out.ReadString('\n'); s != "given\n" {
		t.Fatal(s, err)
	}
	if !g.found() {
		t.Error("the other end is not found")
	}
	// A client's in another network namespace, of which the kernel does not tell us,
	// is known from its call of connect.
	fd, ok := (&conn{own: 1, peer: peer{tid: g.cmd.Process.Pid, fd: 3, inode: g.other}}).end()
	if !ok {
		t.Error("the other end is not found by its inode")
	}
	_ = unix.Close(fd)
	// Ends the inner program, then the outer one.
	if err := unix.Shutdown(g.fd, unix.SHUT_WR); err != nil {
		t.Error(err)
	}
	g.in.Close()
	_ = g.cmd.Wait()
	// Nobody waits for the inner one, which may be the last to end.
	for end := time.Now().Add(10 * time.Second); g.found(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the other end is found in a program that ended")
		}
	}
}

// TestFindEndAtOnce finds ends that came up right after others were looked for.
func TestFindEndAtOnce(t *testing.T) {
	for i := range 5 {
		if !give(t, "exec cat").found() {
			t.Errorf("end %d is not found", i)
		}
	}
}

// TestFindMovedEnd finds an end again whose program has given it another
// number.
func TestFindMovedEnd(t *testing.T) {
	g := give(t, "read x; exec 5<&3 3<&-; echo moved; exec cat")
	if !g.found() {
		t.Error("the other end is not found")
	}
	if _, err := io.WriteString(g.in, "move\n"); err != nil {
		t.Fatal(err)
	}
	if s, err := g.out.ReadString('\n'); s != "moved\n" {
		t.Fatal(s, err)
	}
	if !g.found() {
		t.Error("the other end is not found after it was moved")
	}
}
