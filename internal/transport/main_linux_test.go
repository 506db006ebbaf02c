package transport

import (
	"net"
	"os"
	"testing"

	"go.uber.org/goleak"

	"drvsock/internal/agent"
	"drvsock/internal/link"
)

// doorVariable tells the agent of a test where to listen for a further link: at a
// Unix socket in the place of a Hyper-V one.
const doorVariable = "DRVSOCK_TEST_DOOR"

// buildVariable is the build that the agent of a test says it is.
const buildVariable = "DRVSOCK_TEST_BUILD"

// TestMain plays an agent where a test starts one.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "agent" {
		rw, err := link.Files(os.Stdin, os.Stdout)
		if err == nil {
			cfg := agent.Config{Drives: map[byte]string{'C': os.Args[2]}, Build: os.Getenv("WSL_INTEROP") + os.Getenv(buildVariable)}
			if path := os.Getenv(doorVariable); path != "" {
				cfg.Listen = func(machine string) (net.Listener, string, error) {
					ln, err := net.Listen("unix", path)
					return ln, "stand-in for " + machine, err
				}
			}
			err = agent.Serve(rw, cfg)
		}
		if err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	// The race detector has each agent sleep for a second at its end, by default.
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	goleak.VerifyTestMain(m)
}
