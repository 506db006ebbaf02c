package run

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/supervise"
)

// roleVar has the test binary play a front.
const roleVar = "DRVSOCK_RUN_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(roleVar) != "" {
		os.Exit(stoppedFront())
	}
	os.Exit(m.Run())
}

const limit = 20 * time.Second

func until(ok func() bool) error {
	for end := time.Now().Add(limit); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return errors.New("never came true")
		}
	}
	return nil
}

// rounds is how often each front is stopped: the order in which it learns of the
// signal and of the command's stop is not the same each time.
const rounds = 10

// stoppedFront is a front in the background. Its job is stopped as a terminal
// stops one, by a signal to all of it, and continued by whoever started it. It
// returns 1 if the command is stopped again then.
func stoppedFront() int {
	cmd := exec.Command("sleep", "100")
	f := &front{events: make(chan supervise.Event, 1), signals: make(chan os.Signal, 16), ready: true}
	signal.Notify(f.signals, unix.SIGTSTP)
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, unix.SIGCONT)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	f.child = cmd.Process.Pid
	for range rounds {
		_ = unix.Kill(0, unix.SIGTSTP)
		// Both are there now, and nothing says which of them follow sees first.
		if err := until(func() bool { return isStopped(f.child) && len(f.signals) == 1 }); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
		f.events <- supervise.Event{Stopped: true}
		go func() {
			<-continued
			_ = until(func() bool { return len(f.signals) == 0 })
			f.events <- supervise.Event{Ended: true}
		}()
		if code, err := f.follow(); code != 0 || err != nil {
			fmt.Fprintln(os.Stderr, code, err)
			return 2
		}
		for end := time.Now().Add(20 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if isStopped(f.child) {
				return 1
			}
		}
	}
	return 0
}

// TestContinued stops jobs and continues them in the background: the signal that
// stopped a job must not stop its command once more then, however late the front
// looks at it.
func TestContinued(t *testing.T) {
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), roleVar+"=front")
			cmd.Stderr = os.Stderr
			// In the background of a terminal, if there is one. In a session of its
			// own SIGTSTP would stop nobody: the group would be orphaned.
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			pid := cmd.Process.Pid
			late := time.AfterFunc(2*limit, func() { _ = unix.Kill(-pid, unix.SIGKILL) })
			defer late.Stop()
			for stops := 0; ; {
				var ws unix.WaitStatus
				_, err := unix.Wait4(pid, &ws, unix.WUNTRACED, nil)
				switch {
				case err == unix.EINTR:
				case err != nil:
					t.Fatal(err)
				case ws.Stopped():
					stops++
					_ = unix.Kill(-pid, unix.SIGCONT)
					continue
				case ws.ExitStatus() == 1:
					t.Errorf("the command is stopped again after %d stops", stops)
				case ws.ExitStatus() != 0 || stops != rounds:
					t.Errorf("the front stops %d times, want %d, and ends with %#x", stops, rounds, ws)
				}
				if err == nil {
					return
				}
			}
		})
	}
}
