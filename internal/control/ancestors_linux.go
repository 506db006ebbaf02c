package control

import (
	"bytes"
	"os"
	"strconv"
)

// isSupervisor recognises the command line of `drvsock run`'s supervisor.
func isSupervisor(cmdline []byte) bool {
	args := bytes.Split(cmdline, []byte{0})
	return len(args) > 1 && string(args[1]) == "drvsock:supervise"
}

// parent reads whose child the process of a folder of /proc is, 0 if that can't
// be told (proc_pid_status(5)).
func parent(dir string) int {
	b, err := os.ReadFile(dir + "/status")
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(b, []byte("\nPPid:"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	n, _ := strconv.Atoi(string(bytes.TrimSpace(line)))
	return n
}
