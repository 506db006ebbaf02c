package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"drvsock/internal/config"
	"drvsock/internal/control"
	"drvsock/internal/mount"
	"drvsock/internal/report"
)

// mountFlags are what `drvsock mount` was asked for.
type mountFlags struct {
	config.Mount
	agent      config.Agent // in the foreground
	foreground bool
	verbose    bool
	save       bool
}

func mountCommand(s Streams) *cobra.Command {
	var f mountFlags
	cmd := &cobra.Command{
		Use:   "mount [flags] DIR",
		Short: "Make sockets in a folder of a drive the host's, for all programs",
		Long: `Lay a file system over a folder of a drive in which sockets are the host's, for
every program and without a wrapper. Files are those of the folder beneath.

The daemon, which is started if none runs, keeps it up as long as it runs itself;
with --save, also from its next start on. With --foreground this process serves
it until SIGTERM or SIGINT, or until the folder is unmounted, by a link of its
own, for which --link, --drive and --embed are.

As root it is open to all accounts, each with its own rights. For another user
it takes fusermount3 and is open to that user alone.`,
		Example: `  drvsock mount /mnt/c/tmp
  drvsock mount --save /mnt/c/Users/me/run
  drvsock mount --foreground --embed C=/srv/host:/mnt/c /mnt/c
  drvsock umount /mnt/c/tmp`,
		Args: argCount(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			own := f.agent.Link != "" || len(f.agent.Embed) > 0 || len(f.agent.Drive) > 0
			switch {
			case f.foreground && (f.save || f.Agent != ""):
				return usageError{errors.New("--save and --agent are for the daemon, and --foreground goes without it")}
			case f.foreground:
				return serveMount(s, f, dir)
			case own:
				return usageError{errors.New("--link, --drive and --embed are for --foreground; the daemon has its agents by config.toml, or by drvsock up")}
			case f.verbose:
				return usageError{errors.New("--verbose is for --foreground; the daemon has a log")}
			}
			f.Dir = strings.ReplaceAll(dir, "$", "$$")
			return addMount(cmd, s, f.Mount, f.save)
		},
	}
	agentFlags(cmd, &f.agent)
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.BoolVar(&f.foreground, "foreground", false, "serve it here, until a signal, without the daemon")
	flags.BoolVar(&f.save, "save", false, "add it to config.toml")
	flags.StringVar(&f.Agent, "agent", "", "`NAME` of an agent of config.toml (default: the default one)")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "say on stderr what is done, in the foreground")
	flags.BoolVar(&f.Own, "own", false, "give the files of new sockets to their makers (default: where the drive has metadata)")
	flags.BoolVar(&f.AllowOther, "allow-other", false, "open the folder to other accounts; /etc/fuse.conf has to permit it")
	flags.BoolVar(&f.ListenLate, "listen-late", false, "let host programs in only after a server was seen to listen")
	cmd.AddCommand(mountListCommand(s))
	return cmd
}

// addMount has the daemon lay the view, and the file if it shall be saved.
func addMount(cmd *cobra.Command, s Streams, m config.Mount, save bool) error {
	ctx := cmd.Context()
	r, err := m.Resolve()
	if err != nil {
		report.Error(s.Err, inFlags(cmd, err))
		return exit{exitUsage}
	}
	path := config.Path()
	if save {
		file, err := loadConfig(path)
		if err != nil {
			return err
		}
		if file.Mount(r.Dir) != nil {
			return report.Hint(fmt.Errorf("a mount over %s is in config.toml already", r.Dir), "drvsock umount --save %s", r.Dir)
		}
	}
	resp, err := ask(ctx, control.Options{Start: true}, control.Request{Op: control.OpMountAdd, Mount: &m, Exe: exe()})
	if err != nil {
		return err
	}
	if len(resp.Mounts) != 1 {
		return errors.New("the daemon does not say what it did")
	}
	st := resp.Mounts[0]
	if save {
		if err := config.AddMount(path, m); err != nil {
			_, rerr := ask(ctx, control.Options{}, control.Request{Op: control.OpMountRemove, Name: st.Dir})
			return errors.Join(err, rerr)
		}
		// Now that it is in the file, a reload of one without it ends it.
		if _, err := ask(ctx, control.Options{}, control.Request{Op: control.OpMountAdd, Mount: &m, Saved: true}); err != nil && !noDaemon(err) {
			return err
		}
	}
	fmt.Fprintln(s.Out, report.Line(fmt.Sprintf("mounted %s at %s", st.HostPath, st.Dir)))
	return nil
}

func umountCommand(s Streams) *cobra.Command {
	var save bool
	cmd := &cobra.Command{
		Use:   "umount [--save] DIR",
		Short: "Take a drvsock mount away, also one whose process died",
		Long: `Take a drvsock mount away, whoever serves it, also one whose process died.
Programs that use it have half a second to let go, and then get ENOTCONN.`,
		Args: argCount(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return removeMount(cmd.Context(), s, args[0], save) },
	}
	cmd.Flags().BoolVar(&save, "save", false, "remove it from config.toml too")
	return cmd
}

func removeMount(ctx context.Context, s Streams, name string, save bool) error {
	dir, err := filepath.Abs(name)
	if err != nil {
		return err
	}
	// A view that hangs must not be looked at, so only what leads to it is.
	real := dir
	if parent, err := filepath.EvalSymlinks(filepath.Dir(dir)); err == nil {
		real = filepath.Join(parent, filepath.Base(dir))
	}
	path, saved := config.Path(), ""
	if path != "" {
		file, err := config.Load(path)
		if err != nil && save {
			return err
		}
		for _, d := range []string{dir, real} {
			if err == nil && file.Mount(d) != nil {
				saved = d
			}
		}
	}
	if save && saved != "" {
		if err := config.RemoveMount(path, saved); err != nil {
			return err
		}
	}
	err = unmount(ctx, dir, real)
	if errors.Is(err, mount.ErrNotMounted) {
		switch {
		case save && saved != "":
			return nil
		case saved != "":
			return report.Hint(err, "drvsock umount --save %s takes it out of config.toml", name)
		}
		return report.Hint(err, "drvsock mount list shows what there is")
	}
	if err == nil && saved != "" && !save {
		fmt.Fprintf(s.Err, "drvsock: hint: it is in config.toml and comes back: drvsock umount --save %s\n", name)
	}
	return err
}

// unmount has the daemon take the view away if it is one of its own.
func unmount(ctx context.Context, dir, real string) error {
	kept, err := ask(ctx, control.Options{}, control.Request{Op: control.OpMountList})
	if err == nil {
		for _, m := range kept.Mounts {
			if m.Dir == dir || m.Dir == real {
				_, err := ask(ctx, control.Options{}, control.Request{Op: control.OpMountRemove, Name: m.Dir})
				return err
			}
		}
	}
	return mount.Unmount(dir)
}

// A listedMount is a folder as `mount list` shows it.
type listedMount struct {
	Dir      string `json:"dir"`
	HostPath string `json:"host_path,omitempty"`
	State    string `json:"state"`
	// Daemon says that this user's daemon keeps it up.
	Daemon bool   `json:"daemon"`
	Saved  bool   `json:"saved"`
	Error  string `json:"error,omitempty"`
}

// mountDead is the state of a view whose process died.
const mountDead = "dead"

func mountListCommand(s Streams) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list [--json]",
		Short: "Show the mounts of the daemon, of config.toml and of others",
		Args:  argCount(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := listMounts(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(s.Out, list)
			}
			t := table{b: new(strings.Builder)}
			if len(list) > 0 {
				t.head("MOUNT", "STATE", "DAEMON", "SAVED", "HOST")
			}
			for _, m := range list {
				t.row(m.Dir, m.State, yes(m.Daemon), yes(m.Saved), m.HostPath)
				if m.Error != "" {
					t.note("%s", m.Error)
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

func yes(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

// listMounts gives the mounts of the file in its order, then the others that the
// daemon has, then those of the mount table that are somebody else's.
func listMounts(ctx context.Context) ([]listedMount, error) {
	file := new(config.File)
	if path := config.Path(); path != "" {
		var err error
		if file, err = config.Load(path); err != nil {
			return nil, err
		}
	}
	list := []listedMount{}
	at := func(dir string) *listedMount {
		for i := range list {
			if list[i].Dir == dir {
				return &list[i]
			}
		}
		list = append(list, listedMount{Dir: dir, State: string(down)})
		return &list[len(list)-1]
	}
	for _, m := range file.Mounts {
		if r, err := m.Resolve(); err == nil {
			at(r.Dir).Saved = true
		}
	}
	switch resp, err := ask(ctx, control.Options{}, control.Request{Op: control.OpMountList}); {
	case err == nil:
		for _, m := range resp.Mounts {
			l := at(m.Dir)
			l.Daemon, l.State, l.HostPath = true, m.State, m.HostPath
			if m.LastError != nil && m.State != control.MountServed {
				l.Error = m.LastError.Text
			}
		}
	case !noDaemon(err):
		return nil, err
	}
	there, err := mount.List()
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return nil, err
	}
	for _, e := range there {
		l := at(e.Dir)
		l.HostPath = e.HostPath
		switch {
		case e.Dead:
			l.State = mountDead
		case !l.Daemon:
			l.State = control.MountServed
		}
	}
	return list, nil
}
