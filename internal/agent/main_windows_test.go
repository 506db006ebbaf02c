package agent

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"testing"

	"drvsock/internal/hyperv"
	"drvsock/internal/link"
)

// The test binary also plays an agent, for the tests that run on Linux with
// Windows beside it.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		if err := serveStdio(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func serveStdio() error {
	stop, release := StopOnSignal()
	defer release()
	rw, err := link.Files(os.Stdin, os.Stdout)
	if err != nil {
		return err
	}
	return Serve(rw, Config{Stop: stop, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Listen: func(machine string) (net.Listener, string, error) {
		if machine != "loopback" {
			return hyperv.Listen(machine)
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, "", err
		}
		return ln, ln.Addr().String(), nil
	}})
}
