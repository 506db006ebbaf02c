// Package cli is the command line: one file per command, each of which only
// reads its arguments, calls the package that does the work and prints.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"drvsock/internal/build"
	"drvsock/internal/report"
	"drvsock/internal/run"
)

// Exit codes of every command but run, which has the command's own.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// Streams are where a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// exit is an error that is said already, or needs no words; it carries the code.
type exit struct{ code int }

func (e exit) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// usageError is an error in the words of the command line.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// Main runs the command line and returns the exit code.
func Main(args []string, s Streams) int {
	root := &cobra.Command{
		Use:           "drvsock",
		Short:         "AF_UNIX sockets across Windows and WSL 2, at the same path",
		Version:       build.Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("drvsock {{.Version}}\n")
	root.SetArgs(args)
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(runCommand(s), agentCommand(s), pathCommand(s), demoCommand(s),
		mountCommand(s), umountCommand(s), upCommand(s), downCommand(s), reloadCommand(s), statusCommand(s), daemonCommand(s),
		forwardCommand(s), presetCommand(s), envCommand(s))
	cmd, err := root.ExecuteContextC(context.Background())
	if err == nil {
		return exitOK
	}
	var e exit
	if errors.As(err, &e) {
		return e.code
	}
	var u usageError
	if errors.As(err, &u) || cmd == root {
		report.Error(s.Err, report.Hint(err, "%s --help", cmd.CommandPath()))
		if cmd.Name() == runName {
			return run.ExitFailure
		}
		return exitUsage
	}
	report.Error(s.Err, err)
	return exitFailure
}

// argCount makes a wrong number of arguments a usage error.
func argCount(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}
