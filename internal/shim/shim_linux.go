package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"drvsock/internal/names"
	"drvsock/internal/seccomp"
)

// What travels on the SEQPACKET socket between shim and supervisor: one
// message of the shim with the listener attached, or two for each view, or a
// complaint; then the supervisor's go; then nothing, as the socket closes on exec,
// or a complaint.
const (
	msgListener = "L"
	msgConn     = "C" // with a view's connection to the kernel
	msgRoot     = "R" // with the root of the same view
	msgGo       = "G"
	msgFilter   = "F" // followed by an error number or a text: the filter was refused
	msgExec     = "X" // followed by an error number: the command was not executed
)

// Options are for the filter, or for what there is in its place.
type Options struct {
	NoNewPrivs bool // a process without CAP_SYS_ADMIN must set it (seccomp(2))
	Dumpable   bool // notify prctl(PR_SET_DUMPABLE, 0)
	// Mounted puts views in the place of the filter. The shim was started with
	// Namespaces then.
	Mounted bool
	Views   []View // parents before what lies in them
}

// Args is the argument list of a shim that executes path with argv and talks
// on the descriptor sock.
func Args(sock int, o Options, path string, argv []string) []string {
	args := []string{"drvsock", Word, strconv.Itoa(sock), flag(o.NoNewPrivs), flag(o.Dumpable), flag(o.Mounted), strconv.Itoa(len(o.Views))}
	for _, v := range o.Views {
		args = append(args, v.Dir, v.HostPath)
	}
	return append(append(args, path), argv...)
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
	if len(args) < 7 {
		return 125
	}
	sock, err := strconv.Atoi(args[0])
	if err != nil {
		return 125
	}
	unix.CloseOnExec(sock)
	count, err := strconv.Atoi(args[4])
	if err != nil || count < 0 || len(args) < 7+2*count {
		return 125
	}
	command := args[5+2*count:]
	runtime.LockOSThread()
	if args[3] != "1" {
		return filtered(sock, seccomp.Options{NoNewPrivs: args[1] == "1", Dumpable: args[2] == "1", PeerCred: true}, command)
	}
	var views []View
	for i := range count {
		views = append(views, View{Dir: args[5+2*i], HostPath: args[6+2*i]})
	}
	return mounted(sock, views, command)
}

// filtered is the shim that installs the filter.
func filtered(sock int, o seccomp.Options, command []string) int {
	fd, err := seccomp.Install(o)
	if err != nil {
		complain(sock, msgFilter, err)
		return 125
	}
	err = seccomp.SendFD(sock, []byte(msgListener), fd)
	_ = unix.Close(fd)
	if err != nil || !released(sock) {
		return 125
	}
	return run(sock, command)
}

// mounted is the shim that mounts views.
func mounted(sock int, views []View, command []string) int {
	cwd, _ := unix.Getwd()
	others := names.Capable(unix.CAP_SETUID) // who can become another
	err := mountViews(sock, views, others)
	if err != nil {
		complain(sock, msgFilter, err)
		return 125
	}
	if !released(sock) {
		return 125
	}
	if err = enterViews(cwd, views); err == nil && !others {
		err = dropCapabilities()
	}
	if err != nil {
		complain(sock, msgFilter, err)
		return 125
	}
	return run(sock, command)
}

// released waits for the supervisor's word. If it gave up, it says why.
func released(sock int) bool {
	var word [1]byte
	n, err := read(sock, word[:])
	return err == nil && n == 1 && string(word[:]) == msgGo
}

// run executes the command. It returns only in failure.
func run(sock int, command []string) int {
	err := syscall.Exec(command[0], command[1:], os.Environ())
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
func Listener(sock int) (int, error) { return receive(sock, msgListener) }

// receive waits for a message that comes with a descriptor, and takes that over.
func receive(sock int, want string) (int, error) {
	buf := make([]byte, 1024)
	n, fd, err := seccomp.RecvFD(sock, buf)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the command's process ended before it was ready")
		}
		return -1, fmt.Errorf("receive a descriptor of the shim: %w", err)
	}
	msg := string(buf[:n])
	if msg == want && fd >= 0 {
		return fd, nil
	}
	if fd >= 0 {
		_ = unix.Close(fd)
	}
	if text, ok := strings.CutPrefix(msg, msgFilter); ok {
		return -1, refusal(text)
	}
	return -1, errors.New("the command's process ended before it was ready")
}

// refusal is what the shim complained of.
func refusal(text string) error {
	if text == "busy" {
		return seccomp.ErrBusy
	}
	return errors.New(text)
}

// Go lets the shim execute the command and waits until it has, or has not: the
// error then wraps ErrNotRunnable.
func Go(sock int) error {
	if _, err := unix.Write(sock, []byte(msgGo)); err != nil {
		return fmt.Errorf("release the command: %w", err)
	}
	buf := make([]byte, 1024)
	n, err := read(sock, buf)
	if err != nil {
		return fmt.Errorf("wait for the command to start: %w", err)
	}
	if n == 0 {
		return nil // closed by exec
	}
	if text, ok := strings.CutPrefix(string(buf[:n]), msgFilter); ok {
		return refusal(text)
	}
	num, err := strconv.Atoi(strings.TrimPrefix(string(buf[:n]), msgExec))
	if err != nil {
		return fmt.Errorf("%w: %q", ErrNotRunnable, buf[:n])
	}
	return fmt.Errorf("%w: %w", ErrNotRunnable, syscall.Errno(num))
}
