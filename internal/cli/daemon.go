package cli

import (
	"time"

	"github.com/spf13/cobra"

	"drvsock/internal/config"
	"drvsock/internal/control"
)

// daemonFlags are what `drvsock daemon` was asked for.
type daemonFlags struct {
	agent    config.Agent
	verbose  bool
	onDemand bool
	idle     time.Duration
	detach   bool
	ready    int // descriptor for control.Readiness, -1 for none
}

func daemonCommand(s Streams) *cobra.Command {
	var f daemonFlags
	cmd := &cobra.Command{
		Use:   "daemon [flags]",
		Short: "Be the daemon, in the foreground, for a service manager",
		Long: `Be the daemon that drvsock up starts, in the foreground and with its log on
stderr, until SIGTERM or SIGINT. SIGHUP reads config.toml again. It takes its
control socket from a service manager that passes one on (LISTEN_FDS) and tells
it when it is ready (NOTIFY_SOCKET).`,
		Args: argCount(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error { return runDaemon(s, f) },
	}
	agentFlags(cmd, &f.agent)
	flags := cmd.Flags()
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "say on stderr what is done")
	// For drvsock itself and its tests.
	flags.BoolVar(&f.detach, control.FlagDetach, false, "")
	flags.IntVar(&f.ready, control.FlagReady, -1, "")
	flags.BoolVar(&f.onDemand, control.FlagOnDemand, false, "")
	flags.DurationVar(&f.idle, "idle", 0, "")
	for _, name := range []string{control.FlagDetach, control.FlagReady, control.FlagOnDemand, "idle"} {
		_ = flags.MarkHidden(name) // it was just made
	}
	return cmd
}
