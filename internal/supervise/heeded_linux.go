package supervise

import (
	"os"
	"os/signal"
)

// Heeded leaves out the signals that this process was started with as ignored,
// such as SIGHUP by nohup(1): who catches them starts its command with their
// default. Of the others, Go's runtime has already done the same with all but
// SIGHUP and SIGINT, and nothing tells how they were.
func Heeded(of ...os.Signal) (heeded []os.Signal) {
	for _, s := range of {
		if !signal.Ignored(s) {
			heeded = append(heeded, s)
		}
	}
	return heeded
}
