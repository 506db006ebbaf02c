package cli

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"drvsock/internal/demo"
	"drvsock/internal/report"
)

func demoCommand(s Streams) *cobra.Command {
	var o demo.Options
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Play both sides on this machine and check what happens",
		Long: `Play Windows and WSL 2 on this machine: a folder is the drive C:, a view of it
behaves as WSL 2's, and small programs talk across, without drvsock and with it.
Nothing needs to be installed, and nothing is left behind. As root it also shows
whose permissions count, with the two sides under different accounts.

With --wine the host is Wine's and its programs are real Windows programs;
wine/setup of the sources makes the folder.

Exit code 0 if everything came out as expected, else 1.`,
		Args: argCount(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Wine == "" && (cmd.Flags().Changed("agent") || o.Server != "") {
				return usageError{errors.New("--agent and --server are for --wine")}
			}
			if o.Wine != "" && o.Agent == "" {
				self, err := os.Executable()
				if err != nil {
					return err
				}
				o.Agent = filepath.Join(filepath.Dir(self), "drvsock.exe")
				if _, err := os.Stat(o.Agent); err != nil {
					return report.Hint(err, "build it with GOOS=windows go build -o drvsock.exe ./cmd/drvsock, or name it with --agent")
				}
			}
			if !asJSON {
				o.Out = s.Out
			}
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			r, err := demo.Run(ctx, o)
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(s.Out)
				e.SetIndent("", "  ")
				e.SetEscapeHTML(false)
				if err := e.Encode(r); err != nil {
					return err
				}
			}
			if !r.OK {
				return exit{exitFailure}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "print the steps as JSON when all are done")
	f.StringVar(&o.Wine, "wine", "", "`DIR` of a Wine rig to play the host with")
	f.StringVar(&o.Agent, "agent", "", "the drvsock.exe `FILE` for Wine (default: beside this program)")
	f.StringVar(&o.Server, "server", "", "a Windows program `FILE` to use with --wine in place of our own server")
	return cmd
}
