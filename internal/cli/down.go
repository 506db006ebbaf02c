package cli

import (
	"github.com/spf13/cobra"

	"drvsock/internal/control"
)

func downCommand(Streams) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the daemon, its forwards and its links",
		Long: `End the daemon in an orderly way: listeners are removed, connections end, the
agents end. Commands in drvsock run that use its link go on, and their sockets
on drive paths are back when there is a daemon again.

It is no error if no daemon runs.`,
		Args: argCount(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := ask(cmd.Context(), control.Options{}, control.Request{Op: control.OpDown})
			if noDaemon(err) {
				return nil
			}
			return err
		},
	}
}
