// Command peer is any of the soak's programs: a server, a client that loads
// routes, a keeper of these two in drvsock run, and a link with faults. Each is
// told what to do by its stdin, and ends with it; what it says is one line each.
package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"drvsock/test/soak/part"
)

func main() {
	programs := map[string]func([]string) error{"serve": serve, "load": runLoad, "nurse": nurse, "link": linkProgram}
	if len(os.Args) < 2 || programs[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: peer serve NAME SOCKET | load NAME full|light ROUTE[:quiet]=SOCKET... | nurse ARG... [-- ARG...]... | link CONTROL CMD [ARG...]")
		os.Exit(2)
	}
	if err := programs[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", os.Args[1]+":", err)
		os.Exit(1)
	}
}

// nurse is a program of drvsock run that keeps others: its arguments are their
// command lines, parted by "--". What it is told it tells them.
func nurse(args []string) error {
	var list []*part.Kept
	for _, argv := range strings.Split(strings.Join(args, "\x00"), "\x00--\x00") {
		list = append(list, part.Keep(func(l string) { say("%s", l) }, func() {}, func() *exec.Cmd {
			cmd := exec.Command("/proc/self/exe", strings.Split(argv, "\x00")...)
			cmd.Stderr = os.Stderr
			return cmd
		}))
	}
	for s := bufio.NewScanner(os.Stdin); s.Scan(); {
		for _, k := range list {
			k.Say(s.Text())
		}
	}
	for _, k := range list {
		if !k.End(part.CallBound) {
			return fmt.Errorf("a program does not end")
		}
	}
	return nil
}
