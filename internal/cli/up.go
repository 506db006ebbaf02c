package cli

import (
	"time"

	"github.com/spf13/cobra"

	"drvsock/internal/config"
	"drvsock/internal/control"
	"drvsock/internal/transport"
)

// upWait bounds `drvsock up --wait`.
const upWait = 30 * time.Second

func upCommand(Streams) *cobra.Command {
	var a config.Agent
	var wait bool
	cmd := &cobra.Command{
		Use:   "up [flags]",
		Short: "Start the daemon, which keeps the link and the forwards up",
		Long: `Start the daemon if none runs, and have it stay until drvsock down. It makes the
link to the agent and keeps up the forwards of config.toml.

The flags say how the agent is reached, as those of drvsock run do, and hold for
as long as the daemon runs; config.toml is for what shall last. Other commands
start a daemon by themselves when they need one, which ends a minute after it
was last needed.`,
		Example: `  drvsock up --wait
  drvsock up --embed C=/srv/c:/mnt/c`,
		Args: argCount(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			req := control.Request{Op: control.OpUp, Exe: exe()}
			o := control.Options{Start: true}
			if a.Link != "" || len(a.Embed) > 0 || len(a.Drive) > 0 {
				if _, err := transport.NewPlan(a); err != nil {
					return err
				}
				abs, err := transport.Absolute(a)
				if err != nil {
					return err
				}
				req.Agent, o.Args = &abs, agentArgs(abs)
			}
			if wait {
				req.Wait = int(upWait.Milliseconds())
			}
			_, err := ask(cmd.Context(), o, req)
			return err
		},
	}
	agentFlags(cmd, &a)
	cmd.Flags().BoolVar(&wait, "wait", false, "return when the link is up, or fail if it can't be made within 30 s")
	return cmd
}

// agentFlags adds the flags that say how an agent is reached.
func agentFlags(cmd *cobra.Command, a *config.Agent) {
	f := cmd.Flags()
	f.StringVar(&a.Link, "link", "", "`CMD` whose stdin and stdout are the link to the agent, run by sh (default: drvsock.exe agent)")
	f.StringArrayVar(&a.Drive, "drive", nil, "`L=VIEW`: drive L is seen at the folder VIEW (default: from the mount table)")
	f.StringArrayVar(&a.Embed, "embed", nil, "`L=DIR[:VIEW]`: play a host on this machine whose drive L is DIR, seen at VIEW")
}

// agentArgs are the flags of agentFlags again.
func agentArgs(a config.Agent) []string {
	var args []string
	if a.Link != "" {
		args = append(args, "--link", a.Link)
	}
	for _, d := range a.Drive {
		args = append(args, "--drive", d)
	}
	for _, e := range a.Embed {
		args = append(args, "--embed", e)
	}
	return args
}
