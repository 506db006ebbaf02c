package cli

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"drvsock/internal/agent"
	"drvsock/internal/build"
	"drvsock/internal/hyperv"
	"drvsock/internal/link"
	"drvsock/internal/report"
	"drvsock/internal/transport"
)

func agentCommand(s Streams) *cobra.Command {
	var drives []string
	var verbose, sameUsers bool
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "The host's side of a link, on stdin and stdout",
		Long: `Open sockets on this system for the guest at the other end of stdin and stdout.
It is started by the other side and ends with it; sockets that it made are
removed then. On Windows its drives are the machine's own; elsewhere --drive
names the folders that play them.`,
		Args: argCount(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			level := slog.LevelWarn
			if verbose {
				level = slog.LevelDebug
			}
			cfg := agent.Config{Log: report.NewLog(s.Err, level), Build: build.Version(), Drives: map[byte]string{}, SameUsers: sameUsers, Listen: hyperv.Listen}
			for _, d := range drives {
				letter, dir, err := transport.SplitDrive("--drive", d)
				if err != nil {
					return usageError{err}
				}
				if _, ok := cfg.Drives[letter]; ok {
					return usageError{fmt.Errorf("--drive %q: drive %c has a folder already", d, letter)}
				}
				cfg.Drives[letter] = dir
			}
			if terminal(os.Stdin) {
				return report.Hint(errors.New("stdin is a terminal, where the other side of the link should be"), "drvsock run, forward and up start the agent by themselves")
			}
			stop, release := agent.StopOnSignal()
			defer release()
			cfg.Stop = stop
			in, out, err := stdio()
			if err != nil {
				return err
			}
			rw, err := link.Files(in, out)
			if err != nil {
				return err
			}
			return agent.Serve(rw, cfg)
		},
	}
	cmd.Flags().StringArrayVar(&drives, "drive", nil, "`L=DIR`: drive L is the folder DIR (not on Windows)")
	cmd.Flags().BoolVar(&sameUsers, "same-users", false, "the guest's users are this system's: as root, give sockets to whoever asks (--embed does)")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "say on stderr what is done")
	return cmd
}
