package transport

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"drvsock/internal/config"
	"drvsock/internal/drive"
	"drvsock/internal/report"
)

// shell runs the command line of a link.
const shell = "/bin/sh"

// A Plan is what the words of a config.Agent come to.
type Plan struct {
	Argv  []string // the agent's command; nil: the default, see Installed
	Views []drive.Override
	// Only says that the agent plays a host of its own, so that what the mount
	// table says of drives is another's.
	Only bool
}

// NewPlan reads an agent's words as `drvsock run` has them in its flags. The
// error is for a person and may carry a hint.
func NewPlan(a config.Agent) (Plan, error) {
	var p Plan
	for _, d := range a.Drive {
		letter, view, err := SplitDrive("--drive", d)
		if err != nil {
			return Plan{}, err
		}
		p.Views = append(p.Views, drive.Override{Letter: letter, View: view})
	}
	if len(a.Embed) == 0 {
		if a.Link != "" {
			p.Argv = []string{shell, "-c", a.Link}
		}
		return p, nil
	}
	if a.Link != "" {
		return Plan{}, fmt.Errorf("--embed and --link exclude each other: --embed is a link of its own")
	}
	self, err := os.Executable()
	if err != nil {
		return Plan{}, err
	}
	p.Argv, p.Only = []string{self, "agent", "--same-users"}, true
	seen := map[byte]bool{}
	for _, e := range a.Embed {
		letter, dirs, err := SplitDrive("--embed", e)
		if err != nil {
			return Plan{}, err
		}
		if seen[letter] {
			return Plan{}, fmt.Errorf("--embed %q: drive %c has a folder already", e, letter)
		}
		seen[letter] = true
		dir, view, ok := strings.Cut(dirs, ":")
		if !ok {
			view = dir
		}
		if dir, err = filepath.Abs(dir); err != nil {
			return Plan{}, err
		}
		p.Argv = append(p.Argv, "--drive", string(letter)+"="+dir)
		p.Views = append(p.Views, drive.Override{Letter: letter, View: view})
	}
	return p, nil
}

// Absolute is a with the folders of --embed and --drive made absolute, and the
// program of --link if that is a relative path, for another process, which has
// another working folder.
func Absolute(a config.Agent) (config.Agent, error) {
	absolute := func(flag string, list []string) ([]string, error) {
		var out []string
		for _, s := range list {
			letter, dirs, err := SplitDrive(flag, s)
			if err != nil {
				return nil, err
			}
			parts := []string{dirs}
			if flag == "--embed" {
				parts = strings.SplitN(dirs, ":", 2)
			}
			for i, dir := range parts {
				if parts[i], err = filepath.Abs(dir); err != nil {
					return nil, err
				}
			}
			out = append(out, string(letter)+"="+strings.Join(parts, ":"))
		}
		return out, nil
	}
	var err error
	if word := config.RelativeProgram(a.Link); word != "" {
		abs, err := filepath.Abs(word)
		if err != nil {
			return a, err
		}
		if strings.ContainsFunc(abs, func(r rune) bool { return !isPlain(r) }) {
			abs = "'" + strings.ReplaceAll(abs, "'", `'\''`) + "'"
		}
		a.Link = strings.Replace(a.Link, word, abs, 1)
	}
	if a.Embed, err = absolute("--embed", a.Embed); err != nil {
		return a, err
	}
	a.Drive, err = absolute("--drive", a.Drive)
	return a, err
}

// isPlain tells of characters that mean themselves to a shell.
func isPlain(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+,@%:", r)
}

// SplitDrive reads "C=DIR", the value of flag. The error may carry a hint.
func SplitDrive(flag, s string) (letter byte, dir string, err error) {
	o, err := drive.ParseOverride(s)
	if err != nil {
		return 0, "", report.Hint(fmt.Errorf("%s %q: want a drive letter, '=' and a folder", flag, s), "for example %s C=/mnt/c", flag)
	}
	return o.Letter, o.View, nil
}
