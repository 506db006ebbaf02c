package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"drvsock/internal/preset"
)

func presetCommand(s Streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "preset",
		Short: "Forwards for well-known programs: ssh-agent, gpg, docker and others",
		Args:  argCount(cobra.NoArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(presetListCommand(s), presetAddCommand(s))
	return cmd
}

func presetListCommand(s Streams) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list [--json]",
		Short: "Show the presets",
		Args:  argCount(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if asJSON {
				return writeJSON(s.Out, preset.All)
			}
			t := table{b: new(strings.Builder)}
			t.head("PRESET", "WHAT IT REACHES")
			for _, p := range preset.All {
				t.row(p.Name, p.Description)
			}
			t.end()
			_, err := io.WriteString(s.Out, t.b.String())
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print them as JSON, with their endpoints")
	return cmd
}

func presetAddCommand(s Streams) *cobra.Command {
	var name, listen, connect, agent string
	var save bool
	cmd := &cobra.Command{
		Use:   "add [flags] PRESET",
		Short: "Add a preset's forward, now and for every start of the daemon",
		Long: `Add the forward of a preset to config.toml and have the daemon take it up. What
shells need to know of it, drvsock env says. drvsock forward rm --save NAME takes
it back.`,
		Example: `  drvsock preset add ssh-agent && eval "$(drvsock env)"
  drvsock preset add --connect 'assuan:%APPDATA%\gnupg\S.gpg-agent' gpg`,
		Args: argCount(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := preset.Find(args[0])
			if err != nil {
				return err
			}
			if name == "" {
				name = p.Name
			}
			list, err := listForwards(cmd.Context())
			if err != nil {
				return err
			}
			place, err := presetPlace()
			if err != nil {
				return err
			}
			if listen != "" {
				listen = absolute(listen)
			}
			if connect != "" {
				connect = absolute(connect)
			}
			f, err := p.Forward(cmd.Context(), place, listen, connect)
			if err != nil {
				return err
			}
			f.Name, f.Agent = name, agent
			// What listens there already may be this very preset.
			if !has(list, name) {
				if err := p.Free(cmd.Context(), f); err != nil {
					return err
				}
			}
			if err := addForward(cmd, s, f, save); err != nil {
				return err
			}
			if len(f.Env) > 0 {
				fmt.Fprintf(s.Err, "drvsock: hint: %s in this shell: eval \"$(drvsock env)\"\n", strings.Join(slices.Sorted(maps.Keys(f.Env)), ", "))
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "`NAME` of the forward (default: the preset's)")
	f.StringVar(&listen, "listen", "", "listen at `ENDPOINT` in place of the preset's")
	f.StringVar(&connect, "connect", "", "connect to `ENDPOINT` in place of the preset's")
	f.StringVar(&agent, "agent", "", "`NAME` of an agent of config.toml (default: the default one)")
	f.BoolVar(&save, "save", true, "add it to config.toml; --save=false for as long as the daemon runs")
	return cmd
}
