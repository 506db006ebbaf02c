package transport

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"drvsock/internal/agent"
	"drvsock/internal/link"
)

// TestMain plays an agent where a test starts one.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "agent" {
		rw, err := link.Files(os.Stdin, os.Stdout)
		if err == nil {
			err = agent.Serve(rw, agent.Config{Drives: map[byte]string{'C': os.Args[2]}, Build: os.Getenv("WSL_INTEROP")})
		}
		if err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}
