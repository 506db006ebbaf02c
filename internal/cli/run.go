package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"drvsock/internal/config"
	"drvsock/internal/report"
	"drvsock/internal/run"
	"drvsock/internal/supervise"
	"drvsock/internal/transport"
)

// runName is the one command whose codes below 125 are all its command's.
const runName = "run"

func runCommand(s Streams) *cobra.Command {
	var a config.Agent
	var o run.Options
	cmd := &cobra.Command{
		Use:   runName + " [flags] -- CMD [ARG…]",
		Short: "Run a command whose sockets on drive paths are the host's",
		Long: `Run a command, and everything it starts, so that bind and connect on a
drive path (such as /mnt/c/tmp/x.sock) reach the host, and everything else stays
as it is.

Programs are watched by a seccomp filter. Where the system has no room for one,
as in another drvsock run, the drives are mounted for this run alone instead, as
drvsock mount does it for all.

The link to the host is the daemon's, which is started if none runs. With --link
or --embed, or --no-daemon, it is this run's own.

Exit codes: the command's own; 125 if drvsock fails, 126 if the command can't be
run, 127 if it isn't found, 128+n if it died of signal n.`,
		Example: `  drvsock run -- ./client
  drvsock run --embed C=/tmp/host -- bash
  drvsock run --link 'ssh box drvsock agent --drive C=/srv/c' --drive C=/mnt/c -- ./client`,
		Args: argCount(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			o.Argv = args
			code, err := run.ExitFailure, error(nil)
			if o.By != "" && o.By != supervise.ByFilter && o.By != supervise.ByMount {
				return usageError{fmt.Errorf("--by %q: want %s or %s", o.By, supervise.ByFilter, supervise.ByMount)}
			}
			if o.Plan, err = transport.NewPlan(a); err == nil && o.Agent != "" && (o.NoDaemon || o.Plan.Argv != nil) {
				err = errors.New("--agent names one of the daemon's: it goes without --link, --embed and --no-daemon")
			}
			if err == nil {
				code, err = run.Command(o)
			}
			if err != nil {
				report.Error(s.Err, err)
			}
			if code == 0 {
				return nil
			}
			return exit{code}
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	agentFlags(cmd, &a)
	f.StringVar(&o.Agent, "agent", "", "`NAME` of an agent of config.toml, by whose link to go")
	f.BoolVar(&o.NoDaemon, "no-daemon", false, "make a link of this run's own, without the daemon")
	f.StringVar(&o.By, "by", "", "`WAY` in: filter or mount (default: filter, and mount where none can be had)")
	f.BoolVarP(&o.Verbose, "verbose", "v", false, "say on stderr what is done")
	return cmd
}
