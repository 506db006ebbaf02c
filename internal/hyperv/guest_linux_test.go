package hyperv

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMissing has guests of several kinds.
func TestMissing(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		return p
	}
	wsl2 := file("wsl2", "6.6.87.2-microsoft-standard-WSL2\n")
	wsl1 := file("wsl1", "4.4.0-26100-Microsoft\n")
	other := file("other", "6.18.1-generic\n")
	none := filepath.Join(dir, "none")
	cases := []struct {
		name string
		s    system
		want string
	}{
		{"WSL 2", system{release: wsl2, device: "/dev/null", interop: none}, ""},
		{"WSL 2 with a kernel of one's own", system{release: other, device: "/dev/null", interop: dir}, ""},
		{"WSL 1", system{release: wsl1, device: none, interop: dir}, "the kernel has no " + none},
		{"a file in its place", system{release: wsl2, device: wsl2, interop: dir}, "the kernel has no"},
		// Such as this: a machine of another maker, where CID 2 is no Windows.
		{"another machine with vsock", system{release: other, device: "/dev/null", interop: none}, "not WSL 2"},
		{"nothing", system{release: none, device: none, interop: none}, "not WSL 2"},
	}
	for _, c := range cases {
		start := time.Now()
		err := c.s.missing()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("%s: it took %v to know", c.name, d)
		}
	}
}

// TestMachineID has scripts in the place of wslinfo.
func TestMachineID(t *testing.T) {
	dir := t.TempDir()
	script := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
		return p
	}
	none := filepath.Join(dir, "none")
	good := script("good", `[ "$*" = "--vm-id -n" ] && [ "$WSL_INTEROP" = /run/WSL/1_interop ] && printf %s `+idA)
	cases := []struct {
		name string
		s    system
		err  string
	}{
		{"wslinfo", system{tools: []string{none, good}, init: none}, ""},
		{"only init", system{tools: []string{none}, init: good}, ""},
		{"an old one", system{tools: []string{script("old", "echo 'Invalid command line argument: --vm-id' >&2; echo more >&2; exit 1")}}, "Invalid command line argument: --vm-id"},
		{"WSL 1", system{tools: []string{script("one", "echo wsl1")}}, `"wsl1\n" is no id`},
		{"one that talks without end", system{tools: []string{script("yes", "yes; exit 0")}}, "more than an answer has"},
		{"one that complains without end", system{tools: []string{script("noise", "yes >&2; exit 1")}}, "exit status 1 y"},
		{"one that hangs", system{tools: []string{script("hang", "exec sleep 60")}}, "no answer within"},
		{"none", system{tools: []string{none}, init: none}, "no such file"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := c.s.machineID(t.Context(), []string{"PATH=/usr/bin:/bin", "WSL_INTEROP=/run/WSL/1_interop"})
			if c.err == "" {
				if err != nil || got != id(t, idA) {
					t.Errorf("%v, %v", got, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%v, want %q", err, c.err)
			}
		})
	}
}

// TestLimited has a program write much, by the way in which package exec copies what
// it writes.
func TestLimited(t *testing.T) {
	var l limited
	cmd := exec.Command("/bin/sh", "-c", "printf begin; head -c 300000 /dev/zero")
	cmd.Stdout = &l
	if err := cmd.Run(); err == nil {
		t.Error("all was taken")
	}
	if got := l.String(); len(got) != 256 || !strings.HasPrefix(got, "begin\x00") {
		t.Errorf("%d bytes were kept, want 256: %.20q", len(got), got)
	}
}

func tcp(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// TestConnect has a kernel's answers on a socket of another family, as every
// machine has it: no answer is none, and a refusal is one.
func TestConnect(t *testing.T) {
	none := silent{2, 9, 300 * time.Millisecond}
	if none.Error() != "no answer from CID 2 port 9 within 300ms" {
		t.Errorf("it says %q", none)
	}
	ln := tcp(t)
	if err := errors.Join(unix.Bind(ln, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(ln, 0)); err != nil {
		t.Fatal(err)
	}
	to, err := unix.Getsockname(ln)
	if err != nil {
		t.Fatal(err)
	}
	first := tcp(t)
	if err := connect(t.Context(), first, to, none); err != nil {
		t.Fatalf("somebody listens: %v", err)
	}
	// The backlog is full now, and the kernel says nothing to those who knock.
	start := time.Now()
	err = connect(t.Context(), tcp(t), to, none)
	if d := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.ECONNREFUSED) || d < none.limit || d > 20*none.limit {
		t.Errorf("nobody answers: %v after %v", err, d)
	}
	why := errors.New("no longer wanted")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, why)
	defer cancel()
	if err := connect(ctx, tcp(t), to, silent{2, 9, time.Minute}); !errors.Is(err, why) {
		t.Errorf("given up: %v", err)
	}
	gone := tcp(t)
	if err := unix.Bind(gone, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	to, err = unix.Getsockname(gone)
	if err != nil {
		t.Fatal(err)
	}
	if err := connect(t.Context(), tcp(t), to, none); !errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nobody listens: %v", err)
	}
}

// TestDial connects over vsock within this machine, where the kernel has that.
func TestDial(t *testing.T) {
	// Without the module, CID 1 would be left to the machine's own host.
	if _, err := os.Stat("/sys/module/vsock_loopback"); err != nil {
		t.Skipf("the kernel has no vsock_loopback: %v", err)
	}
	const local = 1 // VMADDR_CID_LOCAL
	ln, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Skipf("vsock: %v", err)
	}
	defer unix.Close(ln)
	if err := errors.Join(unix.Bind(ln, &unix.SockaddrVM{CID: local, Port: unix.VMADDR_PORT_ANY}), unix.Listen(ln, 4)); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(ln)
	if err != nil {
		t.Fatal(err)
	}
	f, err := dial(t.Context(), local, sa.(*unix.SockaddrVM).Port, DialLimit)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	in, _, err := unix.Accept4(ln, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(in)
	if err := f.SetDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a read with a deadline: %v", err)
	}
}

func TestListenHere(t *testing.T) {
	if ln, port, err := Listen(idA); err == nil || !strings.Contains(err.Error(), "no Hyper-V sockets") {
		t.Errorf("%v, %s, %v", ln, port, err)
	}
	for _, port := range []string{"50001", "x"} {
		if f, err := Dial(t.Context(), port); err == nil {
			t.Errorf("%v", f.Name())
		}
	}
}

var _ net.Listener = (*all)(nil)
