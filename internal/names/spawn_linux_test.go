package names

import (
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRefused has each step fail that a system may forbid.
func TestRefused(t *testing.T) {
	asNobody(t)
	tests := map[string]struct {
		spawn Spawner
		cause error
		step  string
	}{
		"no user namespaces": {func([]string, []*os.File, *syscall.SysProcAttr) (func() error, func(), error) {
			return nil, nil, &os.PathError{Op: "fork/exec", Path: "x", Err: unix.ENOSPC}
		}, unix.ENOSPC, "start process"},
		"not this program": {func(argv []string, files []*os.File, attr *syscall.SysProcAttr) (func() error, func(), error) {
			return startProcess([]string{"/bin/true"}, files, attr)
		}, io.EOF, "start name keeper"},
	}
	if os.Geteuid() != 0 {
		tests["no privileges"] = struct {
			spawn Spawner
			cause error
			step  string
		}{func(argv []string, files []*os.File, _ *syscall.SysProcAttr) (func() error, func(), error) {
			return startProcess(argv, files, &syscall.SysProcAttr{})
		}, unix.EPERM, "make mount namespace"}
	}
	for name, tt := range tests {
		before := descriptors(t)
		_, err := Start(tt.spawn, nil)
		var u *Unavailable
		if !errors.Is(err, ErrUnavailable) || !errors.Is(err, tt.cause) || !errors.As(err, &u) || !strings.HasPrefix(u.Step, tt.step) {
			t.Errorf("%s: %v; want ErrUnavailable at %q by %v", name, err, tt.step, tt.cause)
		}
		if after := descriptors(t); after > before {
			t.Errorf("%s: %d descriptors, %d before", name, after, before)
		}
	}
}

func TestHint(t *testing.T) {
	for _, tt := range []struct {
		files map[string]string
		want  string
	}{
		{nil, "a container"},
		{map[string]string{"/proc/sys/user/max_user_namespaces": "95000\n", "/proc/sys/kernel/unprivileged_userns_clone": "1\n"}, "a container"},
		{map[string]string{"/proc/sys/user/max_user_namespaces": "0\n"}, "user.max_user_namespaces is 0"},
		{map[string]string{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}, "kernel.apparmor_restrict_unprivileged_userns is 1"},
	} {
		got := hint(func(name string) ([]byte, error) {
			if s, ok := tt.files[name]; ok {
				return []byte(s), nil
			}
			return nil, os.ErrNotExist
		})
		if !strings.HasPrefix(got, tt.want) {
			t.Errorf("hint for %v = %q, want %q first", tt.files, got, tt.want)
		}
	}
	if u := unavailable("mount tmpfs", unix.EPERM); u.Hint == "" || !strings.Contains(u.Error(), "mount tmpfs: operation not permitted ("+u.Hint) {
		t.Errorf("error %q, hint %q", u, u.Hint)
	}
}

func FuzzReply(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00step"))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		step, e, err := parseReply(b)
		if err != nil {
			return
		}
		again, e2, err := parseReply(appendReply(nil, step, e))
		if err != nil || e2 != e || !strings.HasPrefix(step, again) {
			t.Errorf("%q, %d became %q, %d, %v", step, e, again, e2, err)
		}
	})
}

// FuzzSockaddrPath: what is taken for a path is one to the kernel too.
func FuzzSockaddrPath(f *testing.F) {
	for _, n := range nativeNames {
		f.Add(n.sa)
	}
	f.Fuzz(func(t *testing.T, sa []byte) {
		p, ok := sockaddrPath(sa)
		if !ok {
			return
		}
		if p == "" || len(p) > 108 || strings.IndexByte(p, 0) >= 0 || !strings.HasPrefix(string(sa[2:]), p) {
			t.Errorf("path %q of %q", p, sa)
		}
		if dir := folder(p); !strings.HasPrefix(p, dir) || strings.Contains(strings.Trim(p[len(dir):], "/"), "/") {
			t.Errorf("folder of %q is %q", p, dir)
		}
	})
}
