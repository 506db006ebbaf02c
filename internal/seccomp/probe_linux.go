package seccomp

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Probe tells whether Install with these options would work in this process, by
// doing so on a thread that ends with it. Nothing stays of it. The error is
// Install's.
func Probe(o Options) error {
	done := make(chan error, 1)
	go probe(o, done)
	return <-done
}

// probe must not have the process's first thread, which the runtime keeps when a
// goroutine ends on it, and whose filters are what /proc tells of the process.
func probe(o Options, done chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread ends here
	if unix.Gettid() == os.Getpid() {
		defer runtime.UnlockOSThread()
		over := make(chan error, 1)
		go probe(o, over) // this thread being taken, on another one
		done <- <-over
		return
	}
	fd, err := Install(o)
	if err == nil {
		err = unix.Close(fd)
	}
	done <- err
}
