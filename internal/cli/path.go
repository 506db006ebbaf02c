package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"drvsock/internal/drive"
	"drvsock/internal/report"
)

func pathCommand(s Streams) *cobra.Command {
	var unix, windows, mixed, absolute, asJSON bool
	var mountinfo string
	cmd := &cobra.Command{
		Use:   "path [-u|-w|-m] [-a] [--mountinfo FILE] PATH",
		Short: "Translate a path between Windows and Linux, as wslpath does",
		Long: `Translate a path with the answers of wslpath: from Windows to Linux without a
flag or with -u, from Linux to Windows with -w, or -m for '/' in place of each '\'.
Paths off the drives need WSL_DISTRO_NAME. Exit code 1 if there is no translation.`,
		Example: `  drvsock path 'C:\Users\me\x.sock'
  drvsock path -w /mnt/c/tmp`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			mounts, err := readMounts(mountinfo)
			if err != nil {
				return err
			}
			o := drive.TranslateOptions{Absolute: absolute, Mounts: mounts, Distro: os.Getenv("WSL_DISTRO_NAME")}
			switch {
			case windows:
				o.Mode = drive.ToWindows
			case mixed:
				o.Mode = drive.ToMixed
			}
			out, err := drive.Translate(o, args[0])
			if err != nil {
				// The line that wslpath prints, with our name.
				fmt.Fprintf(s.Err, "drvsock: %s\n", report.Line(err.Error()))
				return exit{exitFailure}
			}
			if asJSON {
				return json.NewEncoder(s.Out).Encode(map[string]string{"path": out})
			}
			_, err = fmt.Fprintln(s.Out, out)
			return err
		},
	}
	// Wrong arguments are a failure like any other here, as for wslpath.
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return err })
	f := cmd.Flags()
	f.BoolVarP(&unix, "unix", "u", false, "from Windows to Linux (default)")
	f.BoolVarP(&windows, "windows", "w", false, "from Linux to Windows")
	f.BoolVarP(&mixed, "mixed", "m", false, "from Linux to Windows, with '/' for '\\'")
	f.BoolVarP(&absolute, "absolute", "a", false, "give an absolute path even for a relative one")
	f.StringVar(&mountinfo, "mountinfo", "", "read the mount table from `FILE` instead of /proc/self/mountinfo")
	f.BoolVar(&asJSON, "json", false, "print {\"path\": …}")
	cmd.MarkFlagsMutuallyExclusive("unix", "windows", "mixed")
	return cmd
}

func readMounts(file string) ([]drive.Mount, error) {
	if file == "" {
		m, err := drive.OpenMounts()
		if errors.Is(err, errors.ErrUnsupported) {
			return nil, report.Hint(err, "copy /proc/self/mountinfo from the Linux side and name the copy with --mountinfo")
		}
		if err != nil {
			return nil, err
		}
		defer m.Close()
		return m.All(), nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return drive.ParseMounts(f)
}
