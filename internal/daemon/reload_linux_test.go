package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"drvsock/internal/config"
	"drvsock/internal/control"
)

// TestIdleEnds: a daemon that nobody needs takes no further call, so that none is
// answered by one that is about to end.
func TestIdleEnds(t *testing.T) {
	ctx, end := context.WithCancel(t.Context())
	d := &daemon{cfg: Config{IdleAfter: time.Hour}, ctx: ctx, end: end, used: time.Now()}
	if d.idle() || !d.enter() {
		t.Fatal("it ends too early")
	}
	d.leave()
	d.cfg.IdleAfter = 0
	if !d.idle() {
		t.Fatal("it does not end")
	}
	if d.enter() {
		t.Error("a call was taken after the end")
	}
}

// TestSessionOrder tells of the sessions in the order in which they began.
func TestSessionOrder(t *testing.T) {
	d := &daemon{sessions: map[*session]struct{}{}, cfg: Config{Folder: new(control.Folder)}}
	began := time.Now()
	for i := range 20 {
		d.sessions[&session{pid: i, agent: new(agent), since: began.Add(time.Duration(i/2) * time.Second)}] = struct{}{}
	}
	for i, s := range d.status().Sessions {
		if s.PID != i {
			t.Errorf("process %d is at place %d", s.PID, i)
		}
	}
}

// reload has the daemon read file.
func reload(t *testing.T, n *near, file *config.File) []string {
	t.Helper()
	n.mu.Lock()
	n.load = func() (*config.File, error) { return file, nil }
	n.mu.Unlock()
	return ask(t, control.Request{Op: control.OpReload}).Notes
}

func ask(t *testing.T, req control.Request) *control.Response {
	t.Helper()
	c, err := control.Dial(t.Context(), control.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, err := c.Do(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestMove has a forward go by another agent from now on: its listener must not
// stand in its own way, nor two forwards have one name.
func TestMove(t *testing.T) {
	defer goleak.VerifyNone(t)
	n, end := begin(t)
	defer end()
	sock := filepath.Join(t.TempDir(), "s.sock")
	w := config.Forward{Name: "x", Listen: sock, Connect: `C:\x.sock`}
	ask(t, control.Request{Op: control.OpForwardAdd, Forward: &w})
	for i := range 10 { // the agents are a map, in no order
		if w.Agent = "other"; i%2 == 1 {
			w.Agent = ""
		}
		file := &config.File{Agents: map[string]config.Agent{"other": {}}, Forwards: []config.Forward{w}}
		if notes := reload(t, n, file); len(notes) > 0 {
			t.Errorf("notes are %q", notes)
		}
		list := ask(t, control.Request{Op: control.OpForwardList}).Forwards
		if len(list) != 1 || list[0].State != "listening" || list[0].Agent != w.Agent {
			t.Fatalf("the forwards are %+v, want one that listens for agent %q", list, w.Agent)
		}
	}
}

// TestReloadsInOrder: of two that overlap, the one that read the file later has
// the last word.
func TestReloadsInOrder(t *testing.T) {
	defer goleak.VerifyNone(t)
	n, end := begin(t)
	defer end()
	begun, release := make(chan struct{}), make(chan struct{})
	n.mu.Lock()
	n.load = func() (*config.File, error) {
		n.mu.Lock()
		n.load = func() (*config.File, error) {
			return &config.File{Forwards: []config.Forward{{Name: "new", Listen: fmt.Sprintf("@drvsock-test-new-%d", os.Getpid()), Connect: `C:\x`}}}, nil
		}
		n.mu.Unlock()
		close(begun)
		<-release
		return &config.File{}, nil
	}
	n.mu.Unlock()
	done := make(chan struct{}, 2)
	again := func() {
		ask(t, control.Request{Op: control.OpReload})
		done <- struct{}{}
	}
	go again()
	<-begun
	go again()
	late := 1
	select {
	case <-done: // it did not wait for the first
	case <-time.After(200 * time.Millisecond):
		late = 2
	}
	close(release)
	for range late {
		<-done
	}
	if list := ask(t, control.Request{Op: control.OpForwardList}).Forwards; len(list) != 1 {
		t.Errorf("the forwards are %+v, want the new one", list)
	}
}
