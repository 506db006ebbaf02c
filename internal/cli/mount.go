package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"drvsock/internal/config"
	"drvsock/internal/mount"
	"drvsock/internal/report"
)

// mountFlags are what `drvsock mount` was asked for.
type mountFlags struct {
	agent      config.Agent
	verbose    bool
	own        bool
	allowOther bool
	listenLate bool
}

func mountCommand(s Streams) *cobra.Command {
	var f mountFlags
	cmd := &cobra.Command{
		Use:   "mount [flags] DIR",
		Short: "Make sockets in a folder of a drive the host's, for all programs",
		Long: `Lay a file system over a folder of a drive in which sockets are the host's, for
every program and without a wrapper. Files are those of the folder beneath. It
stays until SIGTERM or SIGINT, or until the folder is unmounted.

As root it is open to all accounts, each with its own rights. For another user
it takes fusermount3 and is open to that user alone.`,
		Example: `  drvsock mount /mnt/c/tmp
  drvsock mount --embed C=/srv/host:/mnt/c /mnt/c
  drvsock umount /mnt/c/tmp`,
		Args: argCount(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error { return runMount(s, f, args[0]) },
	}
	agentFlags(cmd, &f.agent)
	flags := cmd.Flags()
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "say on stderr what is done")
	flags.BoolVar(&f.own, "own", false, "give the files of new sockets to their makers (default: where the drive has metadata)")
	flags.BoolVar(&f.allowOther, "allow-other", false, "open the folder to other accounts; /etc/fuse.conf has to permit it")
	flags.BoolVar(&f.listenLate, "listen-late", false, "let host programs in only after a server was seen to listen")
	cmd.AddCommand(mountListCommand(s))
	return cmd
}

func umountCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "umount DIR",
		Short: "Take a drvsock mount away, also one whose process died",
		Long: `Take a drvsock mount away, also one whose process died. Programs that use it keep
what they have open; the process that serves it ends when the last one is gone.`,
		Args: argCount(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			err := mount.Unmount(args[0])
			if errors.Is(err, mount.ErrNotMounted) {
				return report.Hint(err, "drvsock mount list shows what there is")
			}
			return err
		},
	}
}

func mountListCommand(s Streams) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list [--json]",
		Short: "Show the drvsock mounts",
		Args:  argCount(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			list, err := mount.List()
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(s.Out)
				e.SetEscapeHTML(false)
				e.SetIndent("", "  ")
				return e.Encode(list)
			}
			w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
			for _, m := range list {
				state := "served"
				if m.Dead {
					state = "dead"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\n", m.Dir, m.HostPath, state)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return cmd
}
