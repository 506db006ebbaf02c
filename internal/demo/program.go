package demo

import (
	"fmt"
	"io"
	"os"
	"time"
)

// patience bounds what the programs wait for: nobody may have to end them.
const patience = 20 * time.Second

// Main is one of the demo's programs; args begin behind Word. It returns the
// exit code: 0, or 1 after an error, which it prints as a line of its own.
func Main(args []string) int {
	programs := map[string]func(say *voice, args []string) error{
		"server": server, "client": client, "bind": bind,
	}
	if len(args) > 0 && args[0] == "play" {
		if err := playMoved(args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "drvsock:", err)
			return 1
		}
		return 0
	}
	if len(args) == 0 || programs[args[0]] == nil {
		return 2
	}
	say := &voice{os.Stdout, args[0]}
	if err := programs[args[0]](say, args[1:]); err != nil {
		say.line("%v", err)
		return 1
	}
	return 0
}

// voice prints lines of a program, each with one call so that nothing waits in
// a buffer for a reader to see it.
type voice struct {
	w    io.Writer
	name string
}

func (v *voice) line(format string, args ...any) {
	fmt.Fprintf(v.w, v.name+": "+format+"\n", args...)
}
