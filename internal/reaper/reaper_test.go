//go:build linux

package reaper

import (
	"bytes"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func start(t *testing.T, r *Reaper, script string, changed func(unix.WaitStatus)) *Process {
	t.Helper()
	p, err := r.Start("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}}, changed)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func wait(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: nothing after 10 s", what)
	}
}

func newReaper(t *testing.T) *Reaper {
	t.Helper()
	r, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func TestStatus(t *testing.T) {
	r := newReaper(t)
	tests := []struct {
		script string
		want   func(unix.WaitStatus) bool
	}{
		{"exit 0", func(ws unix.WaitStatus) bool { return ws.Exited() && ws.ExitStatus() == 0 }},
		{"exit 7", func(ws unix.WaitStatus) bool { return ws.Exited() && ws.ExitStatus() == 7 }},
		{"kill -9 $$", func(ws unix.WaitStatus) bool { return ws.Signaled() && ws.Signal() == unix.SIGKILL }},
	}
	for _, tt := range tests {
		p := start(t, r, tt.script, nil)
		wait(t, tt.script, p.Done())
		if ws := p.Status(); !tt.want(ws) {
			t.Errorf("%q: got status %#x", tt.script, int(ws))
		}
		// Its pid may be another process's by now.
		r.Signal(p, unix.SIGKILL)
	}
}

func TestStopAndContinue(t *testing.T) {
	r := newReaper(t)
	changes := make(chan unix.WaitStatus, 4)
	rd, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	defer wr.Close()
	p, err := r.Start("/bin/sh", []string{"sh", "-c", "kill -STOP $$; read x; exit 3"},
		&syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{rd.Fd(), 1, 2}}, func(ws unix.WaitStatus) { changes <- ws })
	if err != nil {
		t.Fatal(err)
	}
	next := func() unix.WaitStatus {
		select {
		case ws := <-changes:
			return ws
		case <-time.After(10 * time.Second):
			t.Fatal("no change after 10 s")
			return 0
		}
	}
	if ws := next(); !ws.Stopped() {
		t.Fatalf("got status %#x, want stopped", int(ws))
	}
	r.Signal(p, unix.SIGCONT)
	if ws := next(); !ws.Continued() {
		t.Errorf("got status %#x, want continued", int(ws))
	}
	_ = wr.Close()
	wait(t, "end", p.Done())
	if got := p.Status().ExitStatus(); got != 3 {
		t.Errorf("got exit status %d, want 3", got)
	}
}

// TestOrphans lets a child leave a grandchild behind, which must not stay a
// zombie of ours.
func TestOrphans(t *testing.T) {
	r := newReaper(t)
	rd, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	p, err := r.Start("/bin/sh", []string{"sh", "-c", "sleep 0.2 & echo $!"},
		&syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, wr.Fd(), 2}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = wr.Close()
	wait(t, "child", p.Done())
	var line [32]byte
	n, err := rd.Read(line[:])
	if err != nil {
		t.Fatal(err)
	}
	stat := "/proc/" + string(bytes.TrimSpace(line[:n])) + "/stat"
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(stat); os.IsNotExist(err) {
			return
		}
		if time.Now().After(deadline) {
			b, _ := os.ReadFile(stat)
			t.Fatalf("the orphan is still there: %s", b)
		}
	}
}

func TestStartMissing(t *testing.T) {
	r := newReaper(t)
	if _, err := r.Start("/nowhere/at/all", []string{"x"}, &syscall.ProcAttr{}, nil); !os.IsNotExist(err) {
		t.Errorf("got %v, want an error that is os.ErrNotExist", err)
	}
}
