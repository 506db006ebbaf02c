package socket

import (
	"os"
	"strings"

	"drvsock/internal/errno"
)

// Expand puts the values of this process's environment for each %VARIABLE% of a
// host path. %% stands for a percent sign, and one without a second is itself.
// A variable that isn't set is an ENOENT that names it.
func Expand(path string) (string, error) { return expand(path, os.LookupEnv) }

func expand(path string, lookup func(string) (string, bool)) (string, error) {
	var out strings.Builder
	for {
		before, rest, ok := strings.Cut(path, "%")
		out.WriteString(before)
		if !ok {
			return out.String(), nil
		}
		name, after, ok := strings.Cut(rest, "%")
		switch {
		case !ok:
			out.WriteString("%" + rest)
			return out.String(), nil
		case name == "":
			out.WriteByte('%')
		default:
			value, ok := lookup(name)
			if !ok || value == "" {
				return "", errno.Errorf(errno.ENOENT, errno.LayerAgent, "the host's environment has no variable %s", name)
			}
			out.WriteString(value)
		}
		path = after
	}
}
