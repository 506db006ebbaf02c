package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"drvsock/internal/config"
	"drvsock/internal/endpoint"
	"drvsock/internal/preset"
)

// envWait bounds the wait for the daemon, which a person's login waits for.
const envWait = 5 * time.Second

func envCommand(s Streams) *cobra.Command {
	var shell string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "env [--shell sh|fish|pwsh|powershell] [--json]",
		Short: "Print what shells need to know of the forwards, such as SSH_AUTH_SOCK",
		Long: `Print the variables of all forwards as commands of the shell, for its startup
file. It works without a daemon, and starts none.`,
		Example: `  eval "$(drvsock env)"                               # sh, bash, zsh
  drvsock env --shell fish | source
  drvsock env --shell pwsh | Out-String | Invoke-Expression`,
		Args: argCount(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if shell == "" {
				shell = preset.Shell(os.Getenv("SHELL"))
			}
			// Before anything is printed, which a shell would evaluate.
			if _, err := preset.Assign(shell, "A", ""); err != nil {
				return usageError{err}
			}
			file, err := savedForwards()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), envWait, fmt.Errorf("it gave no answer within %v", envWait))
			defer cancel()
			running, err := runningForwards(ctx)
			if err != nil && ctx.Err() != nil {
				fmt.Fprintf(s.Err, "drvsock: warning: the daemon is left out: %v\n", err)
				running, err = nil, nil
			}
			if err != nil {
				return err
			}
			env := variables(s.Err, joinForwards(file, running))
			if asJSON {
				return writeJSON(s.Out, env)
			}
			var b strings.Builder
			for _, name := range slices.Sorted(maps.Keys(env)) {
				line, err := preset.Assign(shell, name, env[name])
				if err != nil {
					return err
				}
				b.WriteString(line)
			}
			_, err = io.WriteString(s.Out, b.String())
			return err
		},
	}
	cmd.Flags().StringVar(&shell, "shell", "", "whose syntax: `NAME` of sh, fish, pwsh, powershell (default: by $SHELL)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print an object of names and values")
	return cmd
}

// variables collects those of all forwards; the last one that sets a variable
// counts, as for assignments in a shell.
func variables(warn io.Writer, list []listed) map[string]string {
	env, by := make(map[string]string), make(map[string]string)
	for _, f := range list {
		if len(f.Env) == 0 {
			continue
		}
		listen, err := address(f)
		if err != nil {
			fmt.Fprintf(warn, "drvsock: warning: %s is left out: %v\n", f.Name, err)
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(f.Env)) {
			if other, ok := by[name]; ok {
				fmt.Fprintf(warn, "drvsock: warning: %s and %s both set %s; the latter counts\n", other, f.Name, name)
			}
			env[name], by[name] = strings.ReplaceAll(f.Env[name], "{listen}", listen), f.Name
		}
	}
	return env
}

// address is what a client of the forward takes.
func address(f listed) (string, error) {
	switch {
	case f.Address != "":
		n, err := endpoint.Parse(f.Address)
		return n.Path, err
	case f.State != down: // its names are in full
		n, err := endpoint.Parse(f.Listen)
		return n.Path, err
	}
	r, err := config.Forward{Listen: f.Listen, Connect: f.Connect}.Resolve()
	return r.From.Path, err
}
