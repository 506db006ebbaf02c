package supervise

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
)

func FuzzParseSignals(f *testing.F) {
	if b, err := os.ReadFile("/proc/self/status"); err == nil {
		f.Add(b)
	}
	f.Add([]byte("State:\tZ (zombie)\nTgid:\tx\nSigPnd:\tfffffffffffffffff\nSigBlk:\t1\nSigIgn:"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s := parseSignals(b); s.blocked&^s.held != 0 {
			t.Errorf("%q: blocked and not held: %+v", b, s)
		}
	})
}

func TestInterruption(t *testing.T) {
	const usr1 = 1 << (unix.SIGUSR1 - 1)
	status := func(tgid int, state string, thread, process, blocked, ignored uint64) []byte {
		return fmt.Appendf(nil, "Name:\tx\nState:\t%s\nTgid:\t%d\nSigPnd:\t%016x\nShdPnd:\t%016x\nSigBlk:\t%016x\nSigIgn:\t%016x\n",
			state, tgid, thread, process, blocked, ignored)
	}
	quiet := status(1, "S (sleeping)", 0, 0, 0, 0)
	for _, row := range []struct {
		name        string
		tid         int
		main, other []byte // of threads 1 and 2
		want        errno.Errno
	}{
		{"none", 2, quiet, quiet, 0},
		{"gone", 2, nil, nil, 0},
		{"the thread's own", 2, quiet, status(1, "S", usr1, 0, 0, 0), restartSys},
		{"blocked", 2, quiet, status(1, "S", usr1, 0, usr1, 0), 0},
		{"ignored", 2, quiet, status(1, "S", usr1, usr1, 0, usr1), 0},
		{"the process's, seen from main", 1, status(1, "S", 0, usr1, 0, 0), nil, restartSys},
		{"the process's, which main takes", 2, status(1, "S", 0, usr1, 0, 0), status(1, "S", 0, usr1, 0, 0), 0},
		{"the process's, main blocks it", 2, status(1, "S", 0, usr1, usr1, 0), status(1, "S", 0, usr1, 0, 0), errno.EINTR},
		{"the process's, main has ended", 2, status(1, "Z (zombie)", 0, usr1, 0, 0), status(1, "S", 0, usr1, 0, 0), errno.EINTR},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := interruptionOf(row.tid, func(tid int) []byte { return map[int][]byte{1: row.main, 2: row.other}[tid] })
			if got != row.want {
				t.Errorf("got %d, want %d", got, row.want)
			}
		})
	}
}

// TestInterruptionOfThread reads it of the kernel: a signal that this thread
// blocks is nothing to it, and pending for it once it doesn't.
func TestInterruptionOfThread(t *testing.T) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGUSR2)
	defer signal.Stop(c)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var old, set unix.Sigset_t
	set.Val[0] = 1 << (unix.SIGUSR2 - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, &old); err != nil {
		t.Fatal(err)
	}
	tid := unix.Gettid()
	if err := unix.Tgkill(os.Getpid(), tid, unix.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	if got := interruption(tid); got != 0 {
		t.Errorf("blocked: got %d, want 0", got)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", tid))
	if err != nil {
		t.Fatal(err)
	}
	s := parseSignals(b)
	if s.tgid != os.Getpid() || s.dead || s.thread != set.Val[0] || s.blocked&set.Val[0] == 0 {
		t.Errorf("got %+v", s)
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c:
	case <-time.After(5 * time.Second):
		t.Error("the signal did not come")
	}
}
