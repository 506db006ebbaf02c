package seccomp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A target is a process under the filter: this program again, which installs
// the filter, sends the listener and execs what it is asked to.
type target struct {
	*Listener
	cmd    *exec.Cmd
	out    bytes.Buffer
	stderr bytes.Buffer
}

const patience = 20 * time.Second // for anything that a target does

// launch starts argv under the filter with options o.
func launch(t testing.TB, o Options, argv ...string) *target {
	t.Helper()
	before := descriptors(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	theirs := os.NewFile(uintptr(pair[1]), "listener")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	p := &target{cmd: exec.CommandContext(ctx, "/proc/self/exe", argv...)}
	p.cmd.Env = append(os.Environ(), roleVar+"=shim", fmt.Sprintf("SHIM_OPTIONS=%v,%v", o.NoNewPrivs, o.Dumpable))
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.stderr
	p.cmd.ExtraFiles = []*os.File{theirs}
	err = p.cmd.Start()
	theirs.Close()
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = p.cmd.Wait()
		if p.Listener != nil {
			p.Close()
		}
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors after the target, %d before", after, before)
		}
	})
	data := make([]byte, 200)
	n, fd, err := RecvFD(pair[0], data)
	if err != nil {
		t.Fatal(err)
	}
	if fd < 0 {
		t.Fatalf("target: %s", data[:n])
	}
	if p.Listener, err = NewListener(fd); err != nil {
		t.Fatal(err)
	}
	return p
}

// role launches a role of this program under the filter, with the privileges
// that the test has.
func role(t testing.TB, name string, args ...string) *target {
	t.Helper()
	return launch(t, options(), append([]string{"/proc/self/exe", name}, args...)...)
}

func options() Options { return Options{NoNewPrivs: os.Geteuid() != 0} }

// next receives a call within the time that is bearable and decodes it.
func (p *target) next(t testing.TB) (Notif, Call) {
	t.Helper()
	timer := time.AfterFunc(patience, func() { p.Close() })
	defer timer.Stop()
	n, err := p.Recv()
	if err != nil {
		t.Fatalf("receive: %v; target said %s%s", err, p.out.Bytes(), p.stderr.Bytes())
	}
	c, err := n.Call()
	if err != nil {
		t.Fatal(err)
	}
	return n, c
}

// finish waits for the target and returns what it wrote.
func (p *target) finish(t testing.TB) string {
	t.Helper()
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("target: %v: %s%s", err, p.out.Bytes(), p.stderr.Bytes())
	}
	return p.out.String()
}

func descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// play is main of the processes that tests start.
func play(role string) int {
	os.Unsetenv(roleVar)
	runtime.LockOSThread()
	args := os.Args[1:]
	if role == "shim" {
		err := shim(args)
		_ = SendFD(3, []byte(err.Error()), -1)
		return 125
	}
	f := roles[role]
	if f == nil {
		fmt.Fprintln(os.Stderr, "no role", role)
		return 2
	}
	if err := f(args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// shim installs the filter and execs argv, or plays argv[1] if argv[0] is this
// program.
func shim(argv []string) error {
	nnp, dumpable, _ := strings.Cut(os.Getenv("SHIM_OPTIONS"), ",")
	fd, err := Install(Options{NoNewPrivs: nnp == "true", Dumpable: dumpable == "true"})
	if err != nil {
		return err
	}
	if err := SendFD(3, []byte("listener"), fd); err != nil {
		return err
	}
	unix.Close(fd)
	unix.CloseOnExec(3)
	env := os.Environ()
	if argv[0] == "/proc/self/exe" {
		env = append(env, roleVar+"="+argv[1])
		argv = append(argv[:1], argv[2:]...)
	}
	return fmt.Errorf("exec %s: %w", argv[0], syscall.Exec(argv[0], argv, env))
}

var roles = map[string]func([]string) error{
	"calls":    playCalls,
	"threads":  playThreads,
	"signal":   playSignal,
	"nested":   playNested,
	"closed":   playClosed,
	"use":      playUse,
	"inherit":  playInherit,
	"dumpable": playDumpable,
	"bench":    playBench,
}

// connect calls connect with a sockaddr of path p, without the runtime's help.
func connect(fd int, p string) (uintptr, unix.Errno) {
	sa := append(binary.NativeEndian.AppendUint16(nil, unix.AF_UNIX), p...)
	r, _, e := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa[0])), uintptr(len(sa)))
	return r, e
}

func unixSocket() (int, error) {
	return unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
}

// playCalls connects args[0] times and prints value and number of each.
func playCalls(args []string) error {
	times, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	fd, err := unixSocket()
	if err != nil {
		return err
	}
	for range times {
		r, e := connect(fd, "/no/where")
		fmt.Println(int64(r), uint(e))
	}
	return nil
}

// playThreads connects on several threads, and the same in a child, where each
// thread expects its own number as the value.
func playThreads(args []string) error {
	const threads, each = 6, 20
	var wg sync.WaitGroup
	errs := make(chan error, threads)
	for range threads {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			for range each {
				if r, e := connect(1000, "/x"); e != 0 || int(r) != unix.Gettid() {
					errs <- fmt.Errorf("thread %d got %d, %v", unix.Gettid(), r, e)
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	if err := <-errs; err != nil {
		return err
	}
	if len(args) == 0 {
		return nil
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVar+"=threads")
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

// playSignal connects on a thread that gets a signal meanwhile.
func playSignal([]string) error {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGUSR1)
	r, e := connect(1000, "/x")
	select {
	case <-c:
	case <-time.After(patience):
		return errors.New("no signal")
	}
	fmt.Println(r, uint(e))
	return nil
}

// playNested installs a second filter with a listener.
func playNested([]string) error {
	_, err := Install(options())
	fmt.Println(errors.Is(err, ErrBusy))
	return nil
}

// playClosed connects twice; the listener goes away during the first.
func playClosed([]string) error {
	for range 2 {
		_, e := connect(1000, "/x")
		fmt.Println(uint(e))
	}
	return nil
}

// playUse prints the inode of its socket, connects, and writes to the
// descriptor that it has in place of its socket afterwards.
func playUse([]string) error {
	fd, err := unixSocket()
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	fmt.Println(st.Ino)
	if _, e := connect(fd, "/some/path"); e != 0 {
		return e
	}
	_, err = unix.Write(fd, []byte("through"))
	return err
}

// playInherit prints whether thread and process are restricted.
func playInherit([]string) error {
	b, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "NoNewPrivs:") || strings.HasPrefix(line, "Seccomp") || strings.HasPrefix(line, "Speculation_Store") {
			fmt.Print(line)
		}
	}
	return nil
}

// playDumpable wants to be out of reach.
func playDumpable([]string) error {
	for _, v := range []uintptr{1, 0} {
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, v, 0, 0, 0); err != nil {
			return err
		}
	}
	r, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	fmt.Println(r)
	return err
}

// playBench times args[1] calls of the sort args[0] and prints nanoseconds.
func playBench(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	begin := time.Now()
	for range n {
		if args[0] == "getppid" {
			unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
		} else {
			connect(1000, "/x")
		}
	}
	fmt.Println(time.Since(begin).Nanoseconds())
	return nil
}

var _ io.Closer = (*Listener)(nil)
