package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	hostside "drvsock/internal/agent"
	"drvsock/internal/config"
	"drvsock/internal/control"
	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/transport"
	"drvsock/internal/wire"
)

// A near agent is one in this process, so that all of a session runs here, under
// the race detector and with nothing that may leak unseen.
type near struct {
	dir  string
	mu   sync.Mutex
	cut  func()
	dead error
	load func() (*config.File, error) // nil: an empty file
}

func (n *near) Kind() string   { return "near" }
func (n *near) String() string { return "near" }

func (n *near) Dial(_ context.Context, cfg link.Config) (*transport.Link, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dead != nil {
		return nil, n.dead
	}
	var fs [4]*os.File
	for i := 0; i < 4; i += 2 {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		fs[i], fs[i+1] = r, w
	}
	far, err := link.Files(fs[0], fs[3])
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(done)
		_ = hostside.Serve(far, hostside.Config{Drives: map[byte]string{'C': n.dir}, Stop: stop, Log: quiet})
	}()
	rw, err := link.Files(fs[2], fs[1])
	if err != nil {
		return nil, err
	}
	l, err := link.New(rw, cfg)
	if err != nil {
		return nil, err
	}
	n.cut = sync.OnceFunc(func() { close(stop) })
	return transport.NewLink(l, 0, func() { <-done }), nil
}

var quiet = slog.New(slog.DiscardHandler)

// begin runs a daemon in this process whose default agent is near.
func begin(t *testing.T) (*near, func()) {
	t.Helper()
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	if err := os.Chmod(os.Getenv("XDG_RUNTIME_DIR"), 0o700); err != nil {
		t.Fatal(err)
	}
	n := &near{dir: t.TempDir()}
	f, err := control.OpenFolder(true)
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan os.Signal, 1), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- Run(Config{
			Load: func() (*config.File, error) {
				n.mu.Lock()
				load := n.load
				n.mu.Unlock()
				if load == nil {
					return &config.File{}, nil
				}
				return load()
			},
			Folder: f, Log: quiet, Ready: func() { close(ready) }, Stop: stop,
			way: func(transport.Plan) transport.Dialer { return n },
		})
	}()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	return n, func() {
		stop <- os.Interrupt
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(endWithin + 5*time.Second):
			t.Error("the daemon does not end")
		}
		f.Close()
	}
}

// dialSession makes a link through the daemon as a supervisor does.
func dialSession(t *testing.T, accepted func(*link.Incoming)) *transport.Link {
	t.Helper()
	l, err := (&transport.Session{Program: "test"}).Dial(t.Context(), link.Config{Role: wire.RoleGuest, Handler: accepted})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestSessions has several at once, each with listeners and connections of its
// own, while the link is cut now and then, and nothing left at the end.
func TestSessions(t *testing.T) {
	defer goleak.VerifyNone(t)
	n, end := begin(t)
	defer end()
	const sessions, rounds = 4, 6
	var wg sync.WaitGroup
	for i := range sessions {
		wg.Go(func() {
			for r := range rounds {
				if err := visit(t, i, r); err != nil {
					t.Errorf("session %d, round %d: %v", i, r, err)
				}
			}
		})
	}
	wg.Wait()
	// A session whose link is cut ends, with its streams.
	l := dialSession(t, nil)
	s, _, err := l.Open(t.Context(), wire.Request{Kind: wire.KindBind, Path: []byte(`C:\cut`), Mode: 0o777})
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	n.cut()
	n.mu.Unlock()
	var e *errno.Error
	if _, err := s.Read(make([]byte, 1)); !errors.As(err, &e) || e.Layer != errno.LayerLink {
		t.Errorf("a stream of the cut link: %v", err)
	}
	select {
	case <-l.Done():
	case <-time.After(5 * time.Second):
		t.Error("the session goes on without its link")
	}
	l.End()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		left, err := os.ReadDir(n.dir)
		if err == nil && len(left) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d files are left on the host, %v", len(left), err)
		}
	}
}

// visit is a session that connects to its own listener by the host.
func visit(t *testing.T, i, r int) error {
	name := []byte(`C:\s` + string(rune('a'+i)) + string(rune('a'+r)))
	in := make(chan *link.Stream, 1)
	from := make(chan uint32, 1)
	l := dialSession(t, func(a *link.Incoming) {
		from <- a.Request.From
		if s, err := a.Accept(wire.Answer{}); err == nil {
			in <- s
		}
	})
	defer l.End()
	open := func(req wire.Request) (*link.Stream, error) {
		s, _, err := l.Open(t.Context(), req)
		return s, err
	}
	handle, err := open(wire.Request{Kind: wire.KindBind, Path: name, Mode: 0o777})
	if err != nil {
		return err
	}
	if _, err := open(wire.Request{Kind: wire.KindListen, From: handle.ID() + 100, Backlog: 1}); !errors.Is(err, errno.EBADF) {
		return errors.New("another's handle was taken")
	}
	s, err := open(wire.Request{Kind: wire.KindListen, From: handle.ID(), Backlog: 5})
	if err != nil {
		return err
	}
	_ = s.Close()
	if s, err = open(wire.Request{Kind: wire.KindConnect, Path: name}); err != nil {
		return err
	}
	far := <-in
	if id := <-from; id != handle.ID() {
		return errors.New("a connection for another's handle")
	}
	word := []byte("word")
	for range 20 {
		for _, way := range [][2]*link.Stream{{s, far}, {far, s}} {
			if _, err := way[0].Write(word); err != nil {
				return err
			}
			got := make([]byte, len(word))
			if _, err := io.ReadFull(way[1], got); err != nil {
				return err
			}
		}
	}
	if r%2 == 0 { // else all of it ends with the session
		_ = s.CloseWrite()
		if _, err := io.ReadAll(far); err != nil {
			return err
		}
		_, _ = far.Close(), s.Close()
		handle.Reset(nil)
	}
	return nil
}

// TestUnknownOp refuses what only another version knows.
func TestUnknownOp(t *testing.T) {
	defer goleak.VerifyNone(t)
	_, end := begin(t)
	defer end()
	c, err := control.Dial(t.Context(), control.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for req, want := range map[control.Op]string{"nosuch": "does not know the request", control.OpForwardAdd: "no forward is given"} {
		if _, err := c.Do(t.Context(), control.Request{Op: req}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", req, err, want)
		}
	}
	if _, err := c.Do(t.Context(), control.Request{Op: control.OpForwardRemove, Name: "x"}); err == nil {
		t.Error("no error for a forward that isn't there")
	}
	if _, err := c.Session(t.Context(), control.Request{Identity: "another"}); !strings.Contains(err.Error(), errAgents.Error()) {
		t.Errorf("a session with another agent: %v", err)
	}
}

// TestForwards adds, lists and removes one.
func TestForwards(t *testing.T) {
	defer goleak.VerifyNone(t)
	_, end := begin(t)
	defer end()
	c, err := control.Dial(t.Context(), control.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sock := filepath.Join(t.TempDir(), "s.sock")
	w := config.Forward{Listen: sock, Connect: `C:\x.sock`}
	r, err := c.Do(t.Context(), control.Request{Op: control.OpForwardAdd, Forward: &w})
	if err != nil || len(r.Forwards) != 1 || r.Forwards[0].Name == "" || r.Forwards[0].State != "listening" {
		t.Fatalf("%+v, %v", r, err)
	}
	if again, err := c.Do(t.Context(), control.Request{Op: control.OpForwardAdd, Forward: &w}); err != nil || len(again.Forwards) != 1 || again.Forwards[0].Name != r.Forwards[0].Name {
		t.Errorf("the same once more: %+v, %v", again, err)
	}
	w.Name, w.Connect = r.Forwards[0].Name, `C:\y.sock`
	if _, err := c.Do(t.Context(), control.Request{Op: control.OpForwardAdd, Forward: &w}); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("a second one of that name: %v", err)
	}
	if r, err := c.Do(t.Context(), control.Request{Op: control.OpForwardList}); err != nil || len(r.Forwards) != 1 {
		t.Errorf("list: %+v, %v", r, err)
	}
	if _, err := c.Do(t.Context(), control.Request{Op: control.OpForwardRemove, Name: w.Name}); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(sock); !os.IsNotExist(err) {
		t.Errorf("its socket: %v", err)
	}
}
