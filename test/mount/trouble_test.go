//go:build linux

package mount

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// patience bounds what takes time by its nature, on a busy machine.
const patience = 20 * time.Second

// until waits for something to become so.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// echo is a server that answers everything with the same.
func echo(t testing.TB, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 64)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					if _, err := c.Write(b[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l
}

// answers tells if a server at path does.
func answers(path string) error {
	c, err := net.DialTimeout("unix", path, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

// children lists the processes that pid started, agents above all.
func children(t *testing.T, pid int) (list []int) {
	t.Helper()
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range tasks {
		b, _ := os.ReadFile(f)
		for w := range strings.FieldsSeq(string(b)) {
			if n, err := strconv.Atoi(w); err == nil {
				list = append(list, n)
			}
		}
	}
	return list
}

// TestKilledAgent has the agent killed: connections fail, calls work again on the
// next link, and servers are back with it.
func TestKilledAgent(t *testing.T) {
	f, m := newView(t, 0)
	echo(t, f.beneath+"/h")
	echo(t, f.view+"/n")
	until(t, "the server answers", func() bool { return answers(f.beneath+"/n") == nil })
	c, err := net.Dial("unix", f.view+"/h")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	agents := children(t, m.Cmd.Process.Pid)
	if len(agents) != 1 {
		t.Fatalf("agents: %v", agents)
	}
	if err := unix.Kill(agents[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a connection of the lost link ends with %v, want ECONNRESET", err)
	}
	until(t, "the guest reaches the host", func() bool { return answers(f.view+"/h") == nil })
	until(t, "the host reaches the guest", func() bool { return answers(f.beneath+"/n") == nil })
	if err := answers(f.view + "/n"); err != nil {
		t.Errorf("within the guest: %v", err)
	}
	if err := os.WriteFile(f.view+"/file", nil, 0o644); err != nil {
		t.Error(err)
	}
}

// TestKilledMount has the process killed: nothing hangs, and the next mount
// takes the dead one away.
func TestKilledMount(t *testing.T) {
	f, m := newView(t, 0)
	echo(t, f.beneath+"/h")
	c, err := net.Dial("unix", f.view+"/h")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m.Kill()
	if _, err := os.ReadDir(f.view); !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("list of the dead mount: %v, want ENOTCONN", err)
	}
	if err := answers(f.view + "/h"); !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("connect in the dead mount: %v, want ENOTCONN", err)
	}
	if out, _ := exec.Command(rig.Binary(t), "mount", "list").Output(); !strings.Contains(string(out), f.view) || !strings.Contains(string(out), "dead") {
		t.Errorf("mount list says %q", out)
	}
	m2 := f.mount(t, 0)
	if err := answers(f.view + "/h"); err != nil {
		t.Errorf("after the next mount: %v", err)
	}
	if out, err := exec.Command(rig.Binary(t), "mount", "--foreground", "--embed", "C="+f.beneath+":"+f.view, f.view).CombinedOutput(); err == nil || !strings.Contains(string(out), "mounted already") {
		t.Errorf("a second mount: %s, %v", out, err)
	}
	m2.Kill()
	if out, err := exec.Command(rig.Binary(t), "umount", f.view).CombinedOutput(); err != nil {
		t.Errorf("umount: %v: %s", err, out)
	}
	if out, err := exec.Command(rig.Binary(t), "umount", f.view).CombinedOutput(); err == nil || !strings.Contains(string(out), "no drvsock mount") {
		t.Errorf("umount of nothing: %s, %v", out, err)
	}
	if l, err := os.ReadDir(f.view); err != nil || len(l) != 0 {
		t.Errorf("the bare folder: %v, %v", l, err)
	}
}

// TestUnmountBusy takes a view away that is in use.
func TestUnmountBusy(t *testing.T) {
	f, m := newView(t, 0)
	file, err := os.Create(f.view + "/open")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	echo(t, f.view+"/n")
	echo(t, f.beneath+"/h")
	if err := answers(f.view + "/h"); err != nil {
		t.Error(err)
	}
	if out, err := exec.Command(rig.Binary(t), "umount", f.view).CombinedOutput(); err != nil {
		t.Fatalf("umount: %v: %s", err, out)
	}
	if _, err := file.WriteString("still"); err != nil {
		t.Errorf("write to a file that was open: %v", err)
	}
	if l, err := os.ReadDir(f.view); err != nil || len(l) != 0 {
		t.Errorf("the folder under the view: %v, %v", l, err)
	}
	until(t, "the host's side of the server is gone", func() bool { return errors.Is(answers(f.beneath+"/n"), unix.ECONNREFUSED) })
	if b, err := os.ReadFile(f.beneath + "/open"); err != nil || string(b) != "still" {
		t.Errorf("beneath: %q, %v", b, err)
	}
	file.Close()
	m.End() // in spite of the server that is bound there still
}

// TestEnded has the process end while programs use the view: they get errors.
func TestEnded(t *testing.T) {
	f, m := newView(t, 0)
	file, err := os.Create(f.view + "/open")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	m.End()
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err == nil {
		if _, err = unix.Getxattr(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), "user.x", nil); err == nil {
			t.Error("a file of an ended view works")
		}
	}
}

// TestChurn makes and removes sockets as fast as is asked for, on both sides. Ten
// seconds later, at most, nothing of it is left.
func TestChurn(t *testing.T) {
	f, _ := newView(t, 0)
	var wg sync.WaitGroup
	const rounds, workers = 125, 4
	begin := time.Now()
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				name := fmt.Sprintf("s%d", w)
				at, other := f.view, f.beneath
				if i%2 == 1 && w%2 == 1 {
					at, other = other, at
				}
				l, err := net.Listen("unix", filepath.Join(at, name))
				if err != nil {
					t.Errorf("listen %d: %v", i, err)
					return
				}
				if i%10 == 0 {
					go func() {
						if c, err := l.Accept(); err == nil {
							_, _ = c.Write([]byte("x"))
							c.Close()
						}
					}()
					var c net.Conn
					for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
						if c, err = net.Dial("unix", filepath.Join(other, name)); err == nil || time.Now().After(end) {
							break
						}
					}
					if err == nil {
						_, err = c.Read(make([]byte, 1))
						c.Close()
					}
					if err != nil {
						t.Errorf("round %d: %v", i, err)
					}
				}
				l.Close() // which removes the file
			}
		})
	}
	wg.Wait()
	t.Logf("%d sockets in %v", rounds*workers, time.Since(begin).Round(time.Millisecond))
	for _, dir := range []string{f.view, f.beneath} {
		if l, err := os.ReadDir(dir); err != nil || len(l) != 0 {
			t.Errorf("left in %s: %v, %v", dir, l, err)
		}
	}
}

// TestMany has many sockets in one folder, of both sides.
func TestMany(t *testing.T) {
	f, m := newView(t, 0)
	const many = 1000
	var open []net.Listener
	defer func() {
		for _, l := range open {
			l.Close()
		}
	}()
	for i := range many {
		for _, p := range []string{f.beneath + "/h", f.view + "/n"} {
			l, err := net.Listen("unix", p+strconv.Itoa(i))
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, l)
		}
	}
	if l, err := os.ReadDir(f.view); err != nil || len(l) != 2*many {
		t.Fatalf("%d entries, %v, want %d", len(l), err, 2*many)
	}
	for i := 0; i < many; i += 100 {
		for _, p := range []string{f.view + "/h", f.view + "/n"} {
			c, err := net.Dial("unix", p+strconv.Itoa(i))
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		dial(t, f.beneath+"/n"+strconv.Itoa(i)).Close()
	}
	for _, l := range open {
		l.Close()
	}
	until(t, "the sockets' descriptors are closed", func() bool {
		fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", children(t, m.Cmd.Process.Pid)[0]))
		return len(fds) < 100
	})
}

// TestVanished has the host change what is there: the view shows it within ten
// seconds, sockets at once.
func TestVanished(t *testing.T) {
	f, _ := newView(t, 0)
	for i := range 3 {
		l := echo(t, f.beneath+"/x")
		if err := answers(f.view + "/x"); err != nil {
			t.Errorf("round %d: %v", i, err)
		}
		l.Close()
		if err := answers(f.view + "/x"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("round %d, closed: %v, want ECONNREFUSED", i, err)
		}
		if err := os.Remove(f.beneath + "/x"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(f.view + "/x"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("round %d, removed: %v", i, err)
		}
		if err := os.WriteFile(f.beneath+"/x", []byte("text"), 0o644); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(f.view + "/x"); err != nil || string(b) != "text" {
			t.Errorf("round %d, a file: %q, %v", i, b, err)
		}
		if err := os.Remove(f.beneath + "/x"); err != nil {
			t.Fatal(err)
		}
		until(t, "the file is gone", func() bool {
			_, err := os.Lstat(f.view + "/x")
			return errors.Is(err, os.ErrNotExist)
		})
	}
}
