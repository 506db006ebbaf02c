//go:build linux

package mount

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// TestKilledBusy has the process killed in the middle of all that it does, over
// and over. Whoever uses the view gets an error, and nobody waits.
func TestKilledBusy(t *testing.T) {
	for name, acc := range map[string]struct {
		uid    uint32
		rounds int
	}{"root": {0, 5}, "own, few descriptors": {rig.Nobody, 5}} {
		t.Run(name, func(t *testing.T) {
			for i := range acc.rounds {
				if !t.Run(fmt.Sprint(i), func(t *testing.T) { killBusy(t, acc.uid) }) {
					return
				}
			}
		})
	}
}

func killBusy(t *testing.T, uid uint32) {
	f := bareFolders(t, uid)
	m := f.command(t, uid)
	if uid != 0 {
		// The kernel is asked to forget files all the time.
		m.Cmd.Args = append([]string{"prlimit", "--nofile=300"}, m.Cmd.Args...)
		m.Cmd.Path = need(t, "prlimit")
	}
	m.Start()
	t.Cleanup(func() { _ = unix.Unmount(f.view, unix.MNT_DETACH|unix.MNT_FORCE) })
	echo(t, f.beneath+"/h")
	if err := os.Chmod(f.beneath+"/h", 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(f.beneath, "files"), 0o777); err != nil {
		t.Fatal(err)
	}
	_ = os.Chown(filepath.Join(f.beneath, "files"), int(uid), int(uid))
	for i := range 400 {
		if err := os.WriteFile(fmt.Sprintf("%s/files/%d", f.beneath, i), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	var over atomic.Bool
	var wg sync.WaitGroup
	worker := func(fn func(i int) error) {
		wg.Go(func() {
			if err := become(uid); err != nil {
				t.Error(err)
			}
			for i := 0; !over.Load(); i++ {
				if err := fn(i); errors.Is(err, unix.ENOTCONN) {
					return
				}
			}
		})
	}
	for range 2 {
		worker(func(i int) error { return answers(f.view + "/h") })
		worker(func(i int) error {
			var st unix.Stat_t
			return unix.Lstat(fmt.Sprintf("%s/files/%d", f.view, rand.IntN(500)), &st)
		})
	}
	worker(func(i int) error {
		l, err := net.Listen("unix", f.view+"/n")
		if err == nil {
			time.Sleep(time.Millisecond)
			l.Close()
		}
		return err
	})
	worker(func(i int) error { _, err := os.ReadDir(f.view + "/files"); return err })
	worker(func(i int) error {
		name := fmt.Sprintf("%s/files/new%d", f.view, i%7)
		return errors.Join(os.WriteFile(name, []byte("text"), 0o644), os.Rename(name, name+"x"), os.Remove(name+"x"))
	})
	wg.Go(func() {
		for !over.Load() {
			if c, err := net.Dial("unix", f.beneath+"/n"); err == nil {
				c.Close()
			}
		}
	})
	time.Sleep(time.Duration(50+rand.IntN(100)) * time.Millisecond) // a moment that nobody chose
	_ = bounded(t, f.view, func() error { m.Kill(); return nil })
	over.Store(true)
	_ = bounded(t, f.view, func() error { wg.Wait(); return nil })
	if _, err := os.ReadDir(f.view); uid == 0 && !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("list of the dead view: %v, want ENOTCONN", err)
	}
	if t.Failed() {
		t.Logf("it said:\n%.4000s", m.Said.String())
	}
}

// bounded calls fn, which waits for ever if the view does not answer. If so, the
// test fails and the connection of the view with its process is cut.
func bounded(t *testing.T, view string, fn func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		t.Error("somebody waits for the view")
		_ = unix.Unmount(view, unix.MNT_FORCE)
		return <-done
	}
}

// become makes the calling goroutine another account's for the rest of its life:
// the view of one is closed to all others, whatever their rights.
func become(uid uint32) error {
	if uid == 0 {
		return nil
	}
	runtime.LockOSThread() // and the thread ends with it
	id := uintptr(uid)
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, id, id, id); e != 0 {
		return e
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, id, id, id); e != 0 {
		return e
	}
	return nil
}

// TestAgentInView has the agent's program lie on the drive that is mounted, as
// drvsock.exe does, and be started again and again: the mount serves the very
// folder that it starts it from.
func TestAgentInView(t *testing.T) {
	r := rig.New(t, rig.Options{})
	script := fmt.Sprintf("#!/bin/sh\nexec %s agent --drive C=%s\n", r.Bin, r.Host)
	if err := os.WriteFile(filepath.Join(r.Host, "drvsock.exe"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	echo(t, filepath.Join(r.Host, "h"))
	m := rig.NewMount(t, r.View, 0, r.Bin, "mount", "--foreground", "-v", "--drive", "C="+r.View, r.View)
	m.Cmd.Env = append(os.Environ(), "PATH="+r.View+":"+os.Getenv("PATH"), "GOGC=1")
	m.Start()
	for i := range 5 {
		before := children(t, m.Cmd.Process.Pid)
		if len(before) != 1 {
			t.Fatalf("agents: %v", before)
		}
		if err := unix.Kill(before[0], unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		until(t, fmt.Sprint("another agent after ", i), func() bool {
			now := children(t, m.Cmd.Process.Pid)
			return len(now) == 1 && now[0] != before[0] && bounded(t, r.View, func() error { return answers(filepath.Join(r.View, "h")) }) == nil
		})
	}
}
