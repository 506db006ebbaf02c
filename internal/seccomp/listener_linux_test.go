package seccomp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"drvsock/internal/errno"

	"golang.org/x/sys/unix"
)

// asNobody runs the calling test once more in a process of an ordinary user.
func asNobody(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "HOME=/tmp", "TMPDIR=/tmp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as user 65534: %v\n%s", err, out)
	} else if !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("as user 65534 the test didn't run:\n%s", out)
	}
}

func TestAnswers(t *testing.T) {
	asNobody(t)
	answers := []struct {
		give func(*target, uint64) error
		want string
	}{
		{func(p *target, id uint64) error { return p.Return(id, 0, 0) }, "0 0"},
		{func(p *target, id uint64) error { return p.Return(id, 1<<40, 0) }, "1099511627776 0"},
		{func(p *target, id uint64) error { return p.Return(id, 0, errno.EACCES) }, "-1 13"},
		{func(p *target, id uint64) error { return p.Return(id, 5, errno.ECONNREFUSED) }, "-1 111"},
		{func(p *target, id uint64) error { return p.Continue(id) }, "-1 2"}, // the kernel's own ENOENT
	}
	p := role(t, "calls", strconv.Itoa(len(answers)))
	var want strings.Builder
	for _, a := range answers {
		n, c := p.next(t)
		if c.Op != OpConnect || c.Len != 11 {
			t.Errorf("call %+v, want a connect of 11 bytes", c)
		}
		if !p.Valid(n.ID) {
			t.Error("call isn't valid while it waits")
		}
		if err := a.give(p, n.ID); err != nil {
			t.Fatal(err)
		}
		if err := p.Return(n.ID, 0, 0); !errors.Is(err, ErrGone) {
			t.Errorf("second answer: %v, want ErrGone", err)
		}
		fmt.Fprintln(&want, a.want)
	}
	if got := p.finish(t); got != want.String() {
		t.Errorf("target got\n%swant\n%s", got, &want)
	}
	if _, err := p.Recv(); err != io.EOF {
		t.Errorf("receive after the last task: %v, want EOF", err)
	}
}

// TestReach reads the call's memory, copies its socket and puts another
// descriptor in its place.
func TestReach(t *testing.T) {
	asNobody(t)
	p := role(t, "use")
	n, c := p.next(t)
	buf := make([]byte, c.Len)
	if err := ReadMemory(n.TID, c.Addr, buf); err != nil {
		t.Fatal(err)
	}
	if want := append(binary.NativeEndian.AppendUint16(nil, unix.AF_UNIX), "/some/path"...); !bytes.Equal(buf, want) {
		t.Errorf("sockaddr %q, want %q", buf, want)
	}
	for _, addr := range []uint64{0, 16, 1 << 62, ^uint64(0) - 1} {
		if err := ReadMemory(n.TID, addr, buf); !errors.Is(err, errno.EFAULT) {
			t.Errorf("read at %#x: %v, want EFAULT", addr, err)
		}
	}
	fd, err := GetFD(n.TID, c.FD)
	if err != nil {
		t.Fatal(err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags of the copy: %#x, %v; want close-on-exec", flags, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	for _, bad := range []int{-1, 999} {
		if _, err := GetFD(n.TID, bad); !errors.Is(err, errno.EBADF) {
			t.Errorf("descriptor %d: %v, want EBADF", bad, err)
		}
	}
	if tgid, err := Tgid(n.TID); err != nil || tgid != p.cmd.Process.Pid {
		t.Errorf("process of the thread: %d, %v; want %d", tgid, err, p.cmd.Process.Pid)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := p.AddFD(n.ID, int(w.Fd()), AddFD{Replace: true, Target: c.FD, CloseOnExec: true})
	if err != nil || got != c.FD {
		t.Fatalf("descriptor put at %d, %v; want %d", got, err, c.FD)
	}
	w.Close()
	if err := p.Return(n.ID, 0, 0); err != nil {
		t.Fatal(err)
	}
	if out := p.finish(t); out != fmt.Sprintln(st.Ino) {
		t.Errorf("target's socket is inode %s, the copy %d", out, st.Ino)
	}
	if b, err := io.ReadAll(r); err != nil || string(b) != "through" {
		t.Errorf("through the descriptor put: %q, %v", b, err)
	}
}

// TestOldKernel has GetFD do without PIDFD_THREAD.
func TestOldKernel(t *testing.T) {
	was := noThreadPidfd.Load()
	noThreadPidfd.Store(true)
	defer noThreadPidfd.Store(was)
	fd, err := GetFD(unix.Gettid(), 1)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	if _, err := GetFD(1<<30, 1); !errors.Is(err, ErrGone) {
		t.Errorf("no such thread: %v, want ErrGone", err)
	}
}

func TestThreadsAndForks(t *testing.T) {
	asNobody(t)
	p := role(t, "threads", "fork")
	var wg sync.WaitGroup
	processes := map[int]bool{}
	for {
		n, err := p.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		tgid, err := Tgid(n.TID)
		if err != nil {
			t.Fatal(err)
		}
		processes[tgid] = true
		wg.Go(func() {
			if err := p.Return(n.ID, int64(n.TID), 0); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	p.finish(t)
	if len(processes) != 2 {
		t.Errorf("calls of %d processes, want 2", len(processes))
	}
}

func TestTaskKilled(t *testing.T) {
	asNobody(t)
	p := role(t, "calls", "1")
	n, _ := p.next(t)
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait()
	if p.Valid(n.ID) {
		t.Error("call of a killed task is valid")
	}
	for what, err := range map[string]error{
		"return":   p.Return(n.ID, 0, 0),
		"continue": p.Continue(n.ID),
		"memory":   ReadMemory(n.TID, 4096, make([]byte, 1)),
		"addfd":    second(p.AddFD(n.ID, 0, AddFD{})),
		"getfd":    second(GetFD(n.TID, 0)),
		"tgid":     second(Tgid(n.TID)),
	} {
		if !errors.Is(err, ErrGone) {
			t.Errorf("%s: %v, want ErrGone", what, err)
		}
	}
	if _, err := p.Recv(); err != io.EOF {
		t.Errorf("receive: %v, want EOF", err)
	}
}

func second(_ int, err error) error { return err }

// TestListenerClosed: nobody stays stuck when the supervisor is gone.
func TestListenerClosed(t *testing.T) {
	asNobody(t)
	p := role(t, "closed")
	n, _ := p.next(t)
	got := make(chan error)
	go func() { _, err := p.Recv(); got <- err }()
	time.Sleep(20 * time.Millisecond)
	for range 2 {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	select {
	case err := <-got:
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("receive: %v, want ErrClosed", err)
		}
	case <-time.After(patience):
		t.Fatal("Close doesn't end Recv")
	}
	if p.Valid(n.ID) {
		t.Error("call of a closed listener is valid")
	}
	if err := p.Return(n.ID, 0, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("return: %v, want ErrClosed", err)
	}
	if out := p.finish(t); out != "38\n38\n" {
		t.Errorf("target got %q, want ENOSYS (38) twice", out)
	}
}

// TestSignal: once received, a call isn't interrupted and made anew by a
// signal, which the program handles after the answer.
func TestSignal(t *testing.T) {
	asNobody(t)
	p := role(t, "signal")
	n, _ := p.next(t)
	if err := unix.Tgkill(p.cmd.Process.Pid, n.TID, unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	if !p.Valid(n.ID) {
		t.Fatal("signal took the task out of the call (a kernel before 5.19?)")
	}
	if err := p.Return(n.ID, 7, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Recv(); err != io.EOF {
		t.Errorf("receive: %v, want EOF: the call was made twice", err)
	}
	if out := p.finish(t); out != "7 0\n" {
		t.Errorf("target got %q", out)
	}
}

func TestNested(t *testing.T) {
	asNobody(t)
	if out := role(t, "nested").finish(t); out != "true\n" {
		t.Errorf("second filter is ErrBusy: %q, want true", out)
	}
}

// TestInherit: root keeps sudo, a user can't; no mitigations are turned on.
func TestInherit(t *testing.T) {
	asNobody(t)
	out := role(t, "inherit").finish(t)
	nnp := "NoNewPrivs:\t0\n"
	if options().NoNewPrivs {
		nnp = "NoNewPrivs:\t1\n"
	}
	before, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(before)) {
		if strings.HasPrefix(line, "Speculation_Store") && !strings.Contains(out, line) {
			t.Errorf("the filter changed %q in\n%s", line, out)
		}
	}
	for _, want := range []string{nnp, "Seccomp:\t2\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// TestForbidden: without privileges and no_new_privs there is no filter, and no
// reach into another user's task.
func TestForbidden(t *testing.T) {
	asNobody(t)
	if os.Geteuid() == 0 {
		return // done as nobody
	}
	got := make(chan error)
	go func() { _, err := Install(Options{}); got <- err }()
	if err := <-got; !errors.Is(err, unix.EACCES) {
		t.Errorf("filter of an ordinary user: %v, want EACCES", err)
	}
	if err := ReadMemory(1, 4096, make([]byte, 1)); !errors.Is(err, unix.EPERM) {
		t.Errorf("memory of process 1: %v, want EPERM", err)
	}
	if _, err := GetFD(1, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("descriptor of process 1: %v, want EPERM", err)
	}
}

func TestDumpable(t *testing.T) {
	asNobody(t)
	o := options()
	o.Dumpable = true
	p := launch(t, o, "/proc/self/exe", "dumpable")
	n, c := p.next(t)
	if c.Op != OpDumpable {
		t.Errorf("call %+v, want prctl", c)
	}
	if err := p.Return(n.ID, 0, 0); err != nil {
		t.Fatal(err)
	}
	if out := p.finish(t); out != "1\n" {
		t.Errorf("dumpable %q after the call that did nothing, want 1", out)
	}
}

func TestPassFD(t *testing.T) {
	before := descriptors(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	buf := make([]byte, 4)
	if err := SendFD(pair[0], []byte("none"), -1); err != nil {
		t.Fatal(err)
	}
	if n, fd, err := RecvFD(pair[1], buf); n != 4 || fd != -1 || err != nil {
		t.Errorf("without a descriptor: %d, %d, %v", n, fd, err)
	}
	if err := SendFD(pair[0], []byte("one"), 1); err != nil {
		t.Fatal(err)
	}
	n, fd, err := RecvFD(pair[1], buf)
	if n != 3 || fd < 0 || err != nil {
		t.Fatalf("with a descriptor: %d, %d, %v", n, fd, err)
	}
	unix.Close(fd)
	// Neither too long a message nor too many descriptors leave any behind.
	if err := SendFD(pair[0], []byte("too long"), 1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := RecvFD(pair[1], buf); err == nil {
		t.Error("a message cut off is no error")
	}
	if err := unix.Sendmsg(pair[0], []byte("many"), unix.UnixRights(0, 1, 2), nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := RecvFD(pair[1], buf); err == nil {
		t.Error("three descriptors are no error")
	}
	if err := SendFD(pair[0], nil, 1); err == nil {
		t.Error("nothing to send is no error")
	}
	unix.Close(pair[0])
	if _, _, err := RecvFD(pair[1], buf); err != io.EOF {
		t.Errorf("after the end: %v, want EOF", err)
	}
	if err := SendFD(pair[1], buf, 1); !errors.Is(err, unix.EPIPE) {
		t.Errorf("send after the end: %v, want EPIPE", err)
	}
	if after := descriptors(t); after > before+1 {
		t.Errorf("%d descriptors, want %d", after, before+1)
	}
}
