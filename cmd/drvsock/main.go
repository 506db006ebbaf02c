// Command drvsock makes AF_UNIX sockets work across Windows and WSL 2 at the
// same path.
package main

import (
	"os"

	"drvsock/internal/cli"
	"drvsock/internal/demo"
	"drvsock/internal/names"
	"drvsock/internal/shim"
	"drvsock/internal/standin"
	"drvsock/internal/supervise"
	"drvsock/internal/view"
)

func main() {
	// The parts that drvsock starts of itself; each is a process of its own and
	// needs no command line.
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case supervise.Word:
			os.Exit(supervise.Main(os.Args[2:]))
		case shim.Word:
			os.Exit(shim.Main(os.Args[2:]))
		case names.Command:
			os.Exit(names.Main())
		case view.Word:
			os.Exit(view.Main(os.Args[2:]))
		case demo.Word:
			os.Exit(demo.Main(os.Args[2:]))
		}
	}
	standin.Main()
	os.Exit(cli.Main(os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
