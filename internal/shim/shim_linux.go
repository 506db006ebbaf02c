package shim

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"drvsock/internal/seccomp"
)

// What travels on the SEQPACKET socket between shim and supervisor: one
// message of the shim with the listener attached, or a complaint; then the
// supervisor's go; then nothing, as the socket closes on exec, or a complaint.
const (
	msgListener = "L"
	msgGo       = "G"
	msgFilter   = "F" // followed by an error number or a text: the filter was refused
	msgExec     = "X" // followed by an error number: the command was not executed
)

// Options are for the filter.
type Options struct {
	NoNewPrivs bool // a process without CAP_SYS_ADMIN must set it (seccomp(2))
	Dumpable   bool // notify prctl(PR_SET_DUMPABLE, 0)
}

// Args is the argument list of a shim that executes path with argv and talks
// on the descriptor sock.
func Args(sock int, o Options, path string, argv []string) []string {
	return append([]string{"drvsock", Word, strconv.Itoa(sock), flag(o.NoNewPrivs), flag(o.Dumpable), path}, argv...)
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// Main is the shim; args begin behind Word. It returns only in failure, with
// the exit code to end with.
func Main(args []string) int {
	if len(args) < 5 {
		return 125
	}
	sock, err := strconv.Atoi(args[0])
	if err != nil {
		return 125
	}
	unix.CloseOnExec(sock)
	runtime.LockOSThread()
	fd, err := seccomp.Install(seccomp.Options{NoNewPrivs: args[1] == "1", Dumpable: args[2] == "1", PeerCred: true})
	if err != nil {
		complain(sock, msgFilter, err)
		return 125
	}
	err = seccomp.SendFD(sock, []byte(msgListener), fd)
	_ = unix.Close(fd)
	if err != nil {
		return 125
	}
	var word [1]byte
	if n, err := read(sock, word[:]); err != nil || n != 1 || string(word[:]) != msgGo {
		return 125 // the supervisor gave up, and says why
	}
	err = syscall.Exec(args[3], args[4:], os.Environ())
	complain(sock, msgExec, err)
	return 126
}

func read(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}

func complain(sock int, kind string, err error) {
	text := err.Error()
	var e syscall.Errno
	if errors.As(err, &e) && kind == msgExec {
		text = strconv.Itoa(int(e))
	}
	if errors.Is(err, seccomp.ErrBusy) {
		text = "busy"
	}
	_, _ = unix.Write(sock, []byte(kind+text))
}

// Listener waits for the shim's first message and takes the listener's
// descriptor over.
func Listener(sock int) (int, error) {
	buf := make([]byte, 1024)
	n, fd, err := seccomp.RecvFD(sock, buf)
	if err != nil {
		return -1, fmt.Errorf("receive the seccomp listener: %w", err)
	}
	msg := string(buf[:n])
	if msg == msgListener && fd >= 0 {
		return fd, nil
	}
	if fd >= 0 {
		_ = unix.Close(fd)
	}
	if text, ok := strings.CutPrefix(msg, msgFilter); ok {
		if text == "busy" {
			return -1, seccomp.ErrBusy
		}
		return -1, fmt.Errorf("install the filter: %s", text)
	}
	return -1, errors.New("the command's process ended before its filter was in place")
}

// Go lets the shim execute the command and waits until it has, or has not: the
// error then wraps ErrNotRunnable.
func Go(sock int) error {
	if _, err := unix.Write(sock, []byte(msgGo)); err != nil {
		return fmt.Errorf("release the command: %w", err)
	}
	buf := make([]byte, 64)
	n, err := read(sock, buf)
	if err != nil {
		return fmt.Errorf("wait for the command to start: %w", err)
	}
	if n == 0 {
		return nil // closed by exec
	}
	num, err := strconv.Atoi(strings.TrimPrefix(string(buf[:n]), msgExec))
	if err != nil {
		return fmt.Errorf("%w: %q", ErrNotRunnable, buf[:n])
	}
	return fmt.Errorf("%w: %w", ErrNotRunnable, syscall.Errno(num))
}
