//go:build linux

package seccomp

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// roleVar names the part that a process started by a test plays instead of
// running tests; see target_linux_test.go.
const roleVar = "DRVSOCK_SECCOMP_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		os.Exit(play(role))
	}
	// Built with -race, each process started here would sleep a second at its end.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	// The runtime's poller opens descriptors at its first use and keeps them.
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}
