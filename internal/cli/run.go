package cli

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"drvsock/internal/report"
	"drvsock/internal/run"
	"drvsock/internal/supervise"
)

// runName is the one command whose codes below 125 are all its command's.
const runName = "run"

func runCommand(s Streams) *cobra.Command {
	var link string
	var drives, embeds []string
	var verbose bool
	cmd := &cobra.Command{
		Use:   runName + " [flags] -- CMD [ARG…]",
		Short: "Run a command whose sockets on drive paths are the host's",
		Long: `Run a command, and everything it starts, so that bind and connect on a
drive path (such as /mnt/c/tmp/x.sock) reach the host, and everything else stays
as it is.

Exit codes: the command's own; 125 if drvsock fails, 126 if the command can't be
run, 127 if it isn't found, 128+n if it died of signal n.`,
		Example: `  drvsock run -- ./client
  drvsock run --embed C=/tmp/host -- bash
  drvsock run --link 'ssh box drvsock agent --drive C=/srv/c' --drive C=/mnt/c -- ./client`,
		Args: argCount(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			o := run.Options{Verbose: verbose, Embed: len(embeds) > 0, Argv: args, Log: report.NewLog(s.Err, slog.LevelWarn)}
			code, err := run.ExitFailure, error(nil)
			if o.Link, o.Drives, err = linkOf(link, drives, embeds); err == nil {
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
	f.StringVar(&link, "link", "", "command whose stdin and stdout are the link to the agent, run by sh (default: drvsock.exe agent)")
	f.StringArrayVar(&drives, "drive", nil, "`L=VIEW`: drive L is seen at the folder VIEW (default: from the mount table)")
	f.StringArrayVar(&embeds, "embed", nil, "`L=DIR[:VIEW]`: play a host on this machine whose drive L is DIR, seen at VIEW")
	f.BoolVarP(&verbose, "verbose", "v", false, "say on stderr what is done")
	return cmd
}

// linkOf makes the link's command and the views of drives from the flags.
func linkOf(link string, drives, embeds []string) ([]string, []supervise.DriveView, error) {
	var views []supervise.DriveView
	for _, d := range drives {
		letter, view, err := splitDrive("--drive", d)
		if err != nil {
			return nil, nil, err
		}
		views = append(views, supervise.DriveView{Letter: letter, View: view})
	}
	if len(embeds) == 0 {
		if link == "" {
			return nil, views, nil
		}
		return []string{"/bin/sh", "-c", link}, views, nil
	}
	if link != "" {
		return nil, nil, fmt.Errorf("--embed and --link exclude each other: --embed is a link of its own")
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	argv := []string{self, "agent", "--same-users"}
	seen := map[byte]bool{}
	for _, e := range embeds {
		letter, dirs, err := splitDrive("--embed", e)
		if err != nil {
			return nil, nil, err
		}
		if seen[letter] {
			return nil, nil, fmt.Errorf("--embed %q: drive %c has a folder already", e, letter)
		}
		seen[letter] = true
		dir, view, ok := strings.Cut(dirs, ":")
		if !ok {
			view = dir
		}
		if dir, err = filepath.Abs(dir); err != nil {
			return nil, nil, err
		}
		argv = append(argv, "--drive", string(letter)+"="+dir)
		views = append(views, supervise.DriveView{Letter: letter, View: view})
	}
	return argv, views, nil
}

// splitDrive reads "C=DIR".
func splitDrive(flag, s string) (letter byte, dir string, err error) {
	l, dir, ok := strings.Cut(s, "=")
	if !ok || len(l) != 1 || dir == "" || !isLetter(l[0]) {
		return 0, "", report.Hint(fmt.Errorf("%s %q: want a drive letter, '=' and a folder", flag, s), "for example %s C=/mnt/c", flag)
	}
	return l[0] &^ 0x20, dir, nil
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
