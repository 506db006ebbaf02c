package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"drvsock/internal/control"
	"drvsock/internal/report"
)

func reloadCommand(s Streams) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Have the daemon read config.toml again",
		Long: `Have the daemon read config.toml again. Forwards that are unchanged go on as they
are, with their connections, and connections of the others go on without their
listener. If the file is wrong everything stays as it was, and the exit code is 1.

What is right, but not done or not yet, is said in warnings: a listener
that the system refuses, which is tried again, or another agent while the link
to the old one is up.`,
		Args: argCount(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := ask(cmd.Context(), control.Options{}, control.Request{Op: control.OpReload})
			if err != nil {
				return err
			}
			for _, n := range r.Notes {
				fmt.Fprintf(s.Err, "drvsock: warning: %s\n", report.Text(n))
			}
			return nil
		},
	}
}
