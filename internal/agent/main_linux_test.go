package agent

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"drvsock/internal/link"
)

// The test binary also plays an agent and a native program under other uids.
const (
	roleVar  = "DRVSOCK_AGENT_TEST"
	filesVar = "DRVSOCK_AGENT_TEST_FILES" // limit of descriptors for "serve"

	sameUsers = "same-users" // argument of "serve"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case "serve":
		os.Exit(serveStdio())
	case "native":
		os.Exit(nativeMain(os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

// serveStdio serves with the folder os.Args[1] as drive C.
func serveStdio() int {
	stop, release := StopOnSignal()
	defer release()
	if n, err := strconv.ParseUint(os.Getenv(filesVar), 10, 32); err == nil {
		limit := &unix.Rlimit{Cur: n, Max: n}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, limit); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	rw, err := link.Files(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	same := len(os.Args) > 2 && os.Args[2] == sameUsers
	if err := Serve(rw, Config{Drives: map[byte]string{'C': os.Args[1]}, Stop: stop, SameUsers: same}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// nativeMain makes calls as a program would, each given by its name and a path,
// and prints their numbers.
func nativeMain(args []string) int {
	for len(args) >= 2 {
		fmt.Println(int(native(args[0], args[1])))
		args = args[2:]
	}
	return 0
}

// native makes a call on path with the system's own means.
func native(call, path string) syscall.Errno {
	err := func() error {
		switch call {
		case "stat":
			var st unix.Stat_t
			return unix.Lstat(path, &st)
		case "unlink":
			return unix.Unlink(path)
		}
		flags := unix.SOCK_STREAM | unix.SOCK_CLOEXEC
		if call == "connect-nonblock" {
			flags |= unix.SOCK_NONBLOCK
		}
		fd, err := unix.Socket(unix.AF_UNIX, flags, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		sa := &unix.SockaddrUnix{Name: path}
		switch call {
		case "bind":
			if err := unix.Bind(fd, sa); err != nil {
				return err
			}
			return unix.Unlink(path)
		case "connect-timeout":
			tv := unix.NsecToTimeval(200e6)
			if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
				return err
			}
		}
		for {
			if err := unix.Connect(fd, sa); err != unix.EINTR {
				return err
			}
		}
	}()
	var e syscall.Errno
	if err != nil && !errors.As(err, &e) {
		panic("no errno: " + strconv.Quote(err.Error()))
	}
	return e
}
