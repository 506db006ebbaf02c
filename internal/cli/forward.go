package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"drvsock/internal/config"
	"drvsock/internal/control"
	"drvsock/internal/endpoint"
	"drvsock/internal/forward"
	"drvsock/internal/report"
)

func forwardCommand(s Streams) *cobra.Command {
	var f config.Forward
	var env, users []string
	var save bool
	cmd := &cobra.Command{
		Use:   "forward [flags] LISTEN CONNECT",
		Short: "Connect any socket with any other, and keep that up",
		Long: `Listen at LISTEN and connect what comes to CONNECT. The form of a name says which
side and kind it is:

  /run/x.sock  x.sock  @name      here: Unix socket, by path or abstract
  C:\x.sock  %APPDATA%\x.sock     host: Unix socket (as is /mnt/c/x.sock)
  \\.\pipe\name                   host: named pipe
  assuan:FILE  cygwin:FILE        GnuPG's and Cygwin's stand-ins for sockets
  pageant:                        host: PuTTY's agent
  tcp:127.0.0.1:PORT              host: TCP on loopback; guest:tcp:… for here

The daemon, which is started if none runs, keeps the forward up as long as it
runs itself; with --save, also from its next start on.`,
		Example: `  drvsock forward /run/user/1000/agent.sock '\\.\pipe\openssh-ssh-agent'
  drvsock forward --save --message '\\.\pipe\docker_engine' /var/run/docker.sock
  drvsock forward 'C:\Users\me\db.sock' /run/postgresql/.s.PGSQL.5432`,
		Args: argCount(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.Listen, f.Connect = absolute(args[0]), absolute(args[1])
			if cmd.Flags().Changed("allow-user") {
				f.Allow = &config.Allow{User: users}
			}
			for _, e := range env {
				name, value, ok := strings.Cut(e, "=")
				if !ok {
					return usageError{fmt.Errorf("--env %q: want NAME=VALUE", e)}
				}
				if f.Env == nil {
					f.Env = make(map[string]string)
				}
				f.Env[name] = value
			}
			return addForward(cmd, s, f, save)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.Name, "name", "", "`NAME` of the forward (default: from LISTEN)")
	fl.StringVar(&f.Mode, "mode", "", "permission bits of the socket, `OCTAL` (default: 0600)")
	fl.StringVar(&f.Owner, "owner", "", "`USER` who owns the socket, by name or number")
	fl.StringVar(&f.Group, "group", "", "`GROUP` of the socket, by name or number")
	fl.StringArrayVar(&f.Access, "access", nil, "`ACCOUNT` on the host that may connect too; by default this one's alone may")
	fl.BoolVar(&f.Message, "message", false, "listen on a message pipe, which knows half-close, as Docker's do")
	fl.StringArrayVar(&users, "allow-user", nil, "`USER` who is served, by name, number or Windows account; nobody else is")
	fl.StringVar(&f.Filter, "filter", "", "`NAME` of a filter: ssh-agent keeps extensions from agents that can't bear them")
	fl.StringArrayVar(&env, "env", nil, "`NAME=VALUE` for drvsock env; {listen} stands for LISTEN")
	fl.StringVar(&f.Agent, "agent", "", "`NAME` of an agent of config.toml (default: the default one)")
	fl.BoolVar(&save, "save", false, "add it to config.toml")
	cmd.AddCommand(forwardListCommand(s), forwardRemoveCommand(s))
	return cmd
}

// absolute makes a relative path absolute. What has no form of an endpoint and
// no look of a path is left to be refused.
func absolute(s string) string {
	rest := s
	for _, p := range []string{"guest:", "assuan:", "cygwin:"} {
		rest = strings.TrimPrefix(rest, p)
	}
	first, _, _ := strings.Cut(rest, "/")
	if rest == "" || first == "" || strings.ContainsAny(rest[:1], `~$@%`) || strings.ContainsAny(first, `:\`) {
		return s
	}
	abs, err := filepath.Abs(rest)
	if err != nil {
		return s
	}
	return s[:len(s)-len(rest)] + strings.ReplaceAll(abs, "$", "$$")
}

// addForward has the daemon take f up, and the file if it shall be saved.
func addForward(cmd *cobra.Command, s Streams, f config.Forward, save bool) error {
	ctx := cmd.Context()
	r, err := f.Resolve()
	if err != nil {
		report.Error(s.Err, inFlags(cmd, err))
		return exit{exitUsage}
	}
	path, isSaved := config.Path(), false
	if save {
		// What is wrong with the file, or has the name already, shows before
		// anything listens.
		file, err := loadConfig(path)
		if err != nil {
			return err
		}
		switch w := saved(file, r); {
		case w != nil:
			f.Name, save, isSaved = w.Name, false, true
		case f.Name == "":
			f.Name = config.DefaultName(r.From, func(name string) bool { return file.Forward(name) != nil })
		case file.Forward(f.Name) != nil:
			return nameTaken(f.Name)
		}
	}
	// The daemon's variables may be others than those of this shell.
	sent := f
	sent.Listen, sent.Connect = quoteVariables(r.From), quoteVariables(r.To)
	resp, err := ask(ctx, control.Options{Start: true}, control.Request{Op: control.OpForwardAdd, Forward: &sent, Saved: isSaved, Exe: exe()})
	if err != nil {
		return err
	}
	if len(resp.Forwards) != 1 {
		return errors.New("the daemon does not say what it did")
	}
	st := resp.Forwards[0]
	if save {
		f.Name = st.Name
		if err := config.AddForward(path, f); err != nil {
			_, rerr := ask(ctx, control.Options{}, control.Request{Op: control.OpForwardRemove, Name: st.Name})
			return errors.Join(err, rerr)
		}
		// Now that it is in the file, a reload of one without it ends it.
		sent.Name = st.Name
		if _, err := ask(ctx, control.Options{}, control.Request{Op: control.OpForwardAdd, Forward: &sent, Saved: true}); err != nil && !noDaemon(err) {
			return err
		}
	}
	sayForward(s.Out, st)
	if name := r.KeptOut(os.Getuid()); name != "" {
		fmt.Fprintf(s.Err, "drvsock: warning: %s can't open the socket: its mode is 0600\n", report.Line(name))
		fmt.Fprintf(s.Err, "drvsock: hint: drvsock forward rm %s, and again with --mode 0666: the rule holds all the same\n", st.Name)
	}
	return nil
}

// saved finds r in the file.
func saved(file *config.File, r config.Resolved) *config.Forward {
	for i, w := range file.Forwards {
		if o, err := w.Resolve(); err == nil && r.Same(o) {
			return &file.Forwards[i]
		}
	}
	return nil
}

func nameTaken(name string) error {
	return report.Hint(fmt.Errorf("a forward named %s is there already", name), "drvsock forward rm --save %s", name)
}

// loadConfig is config.Load, where there is a file at all.
func loadConfig(path string) (*config.File, error) {
	if path == "" {
		return nil, report.Hint(errors.New("there is no place for config.toml: neither XDG_CONFIG_HOME nor HOME is set"), "export HOME")
	}
	return config.Load(path)
}

// quoteVariables writes a name so that nothing in it is a variable.
func quoteVariables(n endpoint.Name) string {
	if n.Side == endpoint.Host {
		return n.String()
	}
	return strings.ReplaceAll(n.String(), "$", "$$")
}

// sayForward says what came of a forward, in a line.
func sayForward(w io.Writer, st forward.Status) {
	listen := st.Listen
	if st.Address != "" {
		listen = st.Address
	}
	fmt.Fprintln(w, report.Line(fmt.Sprintf("%s: %s on %s for %s", st.Name, st.State, listen, st.Connect)))
	if st.State != forward.Listening && st.LastError != nil {
		fmt.Fprintf(w, "  %s\n", report.Line(st.LastError.Text))
	}
}

// inFlags says the flag in place of a forward's key in the file.
func inFlags(cmd *cobra.Command, err error) error {
	var f *config.FieldError
	if !errors.As(err, &f) {
		return err
	}
	name, _, _ := strings.Cut(f.Field, ".")
	switch {
	case cmd.Flags().Lookup(name) != nil: // those of preset add include listen and connect
		name = "--" + name
	case name == "allow":
		name = "--allow-user"
	default:
		name = strings.ToUpper(name)
	}
	out := fmt.Errorf("%s: %w", name, f.Err)
	if hint := report.HintOf(f.Err); hint != "" {
		return report.Hint(out, "%s", hint)
	}
	return report.Hint(out, "%s --help", cmd.CommandPath())
}

// A listed is a forward as `forward list` shows it.
type listed struct {
	forward.Status
	Saved bool `json:"saved"` // it is in config.toml
}

// down is the state of a forward that no daemon keeps up.
const down forward.State = "down"

func forwardListCommand(s Streams) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list [--json]",
		Short: "Show the forwards of the daemon and of config.toml",
		Args:  argCount(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := listForwards(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(s.Out, list)
			}
			t := table{b: new(strings.Builder)}
			if len(list) > 0 {
				t.head("FORWARD", "STATE", "SAVED", "LISTEN", "CONNECT")
			}
			for _, f := range list {
				saved, listen := "no", f.Listen
				if f.Saved {
					saved = "yes"
				}
				if f.Address != "" {
					listen = f.Address
				}
				t.row(f.Name, string(f.State), saved, listen, f.Connect)
				if f.LastError != nil && f.State != forward.Listening {
					t.note("%s", f.LastError.Text)
				}
			}
			t.end()
			_, err = io.WriteString(s.Out, t.b.String())
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return cmd
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// listForwards gives the forwards of the file in its order, then the others that
// the daemon has.
func listForwards(ctx context.Context) ([]listed, error) {
	file, err := savedForwards()
	if err != nil {
		return nil, err
	}
	running, err := runningForwards(ctx)
	if err != nil {
		return nil, err
	}
	return joinForwards(file, running), nil
}

// savedForwards reads the file, which need not be there.
func savedForwards() (*config.File, error) {
	path := config.Path()
	if path == "" {
		return new(config.File), nil
	}
	return config.Load(path)
}

// runningForwards asks the daemon, if there is one.
func runningForwards(ctx context.Context) ([]forward.Status, error) {
	resp, err := ask(ctx, control.Options{}, control.Request{Op: control.OpForwardList})
	switch {
	case err == nil:
		return resp.Forwards, nil
	case noDaemon(err):
		return nil, nil
	}
	return nil, err
}

func joinForwards(file *config.File, running []forward.Status) []listed {
	list := []listed{}
	for _, f := range file.Forwards {
		l := listed{Saved: true}
		l.Name, l.Listen, l.Connect, l.Agent, l.Env, l.State = f.Name, f.Listen, f.Connect, f.Agent, f.Env, down
		for _, st := range running {
			if st.Name == f.Name {
				l.Status = st
			}
		}
		list = append(list, l)
	}
	for _, st := range running {
		if file.Forward(st.Name) == nil {
			list = append(list, listed{Status: st})
		}
	}
	return list
}

func forwardRemoveCommand(s Streams) *cobra.Command {
	var save bool
	cmd := &cobra.Command{
		Use:   "rm [--save] NAME…",
		Short: "End forwards; connections that are open go on",
		Args:  argCount(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			failed := false
			for _, name := range args {
				if err := removeForward(cmd.Context(), s, name, save); err != nil {
					report.Error(s.Err, err)
					failed = true
				}
			}
			if failed {
				return exit{exitFailure}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&save, "save", false, "remove them from config.toml too")
	return cmd
}

func removeForward(ctx context.Context, s Streams, name string, save bool) error {
	path := config.Path()
	saved := false
	if path != "" {
		file, err := config.Load(path)
		if err != nil && save {
			return err
		}
		saved = err == nil && file.Forward(name) != nil
	}
	if save && saved {
		if err := config.RemoveForward(path, name); err != nil {
			return err
		}
	}
	_, err := ask(ctx, control.Options{}, control.Request{Op: control.OpForwardRemove, Name: name})
	switch {
	case err == nil && saved && !save:
		fmt.Fprintf(s.Err, "drvsock: hint: it is in config.toml and comes back: drvsock forward rm --save %s\n", name)
	case err != nil && saved && save:
		// Nobody kept it up, or a daemon that read the file a moment ago.
		if st, lerr := listForwards(ctx); lerr == nil && !has(st, name) {
			return nil
		}
	case noDaemon(err) && save: // it was looked for in the file too
		return report.Hint(fmt.Errorf("no forward is named %q", name), "drvsock forward list")
	case noDaemon(err) && saved:
		return report.Hint(fmt.Errorf("no daemon keeps %s up", name), "drvsock forward rm --save %s takes it out of config.toml", name)
	}
	return err
}

func has(list []listed, name string) bool {
	for _, l := range list {
		if l.Name == name {
			return true
		}
	}
	return false
}
