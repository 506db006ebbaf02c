package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/wire"
)

// TestMove carries streams by the stand-in and not by the agent's pipes, link
// after link, and leaves nothing.
func TestMove(t *testing.T) {
	c, s := door(t)
	echo(t, filepath.Join(c.Argv[2], "echo"))
	const n = 1 << 20
	before := 0
	for i := range 3 {
		l, err := c.Dial(t.Context(), guest())
		if err != nil {
			t.Fatal(err)
		}
		if l.Way != "hyperv" || l.Why != "port stand-in for machine 7" || unix.Kill(l.PID, 0) != nil {
			t.Errorf("way %q, %q, process %d", l.Way, l.Why, l.PID)
		}
		there(t, l.Link, n)
		if got := s.bytes.Swap(0); got < 2*n {
			t.Errorf("%d bytes went by the stand-in, want %d and more", got, 2*n)
		}
		if _, err := os.Stat(s.path); err == nil {
			t.Error("the listener outlives the one that it was for")
		}
		l.End()
		if unix.Kill(l.PID, 0) == nil {
			t.Error("the agent outlives its link")
		}
		s.work.Wait()
		if i == 0 {
			before = descriptors(t)
		}
		for end := time.Now().Add(5 * time.Second); descriptors(t) > before; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d descriptors are open, %d were after the first link", descriptors(t), before)
			}
		}
	}
}

// TestMoveServes has host programs connect over a moved link.
func TestMoveServes(t *testing.T) {
	c, _ := door(t)
	from := make(chan uint32, 1)
	cfg := guest()
	cfg.Handler = func(in *link.Incoming) {
		if st, err := in.Accept(wire.Answer{}); err == nil {
			_ = st.Close()
		}
		from <- in.Request.From
	}
	l, err := c.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer l.End()
	h, _, err := l.Open(t.Context(), wire.Request{Kind: wire.KindBind, Path: []byte(`C:\s`), Mode: 0o700})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Open(t.Context(), wire.Request{Kind: wire.KindListen, From: h.ID(), Backlog: 1}); err != nil {
		t.Fatal(err)
	}
	p, err := net.Dial("unix", filepath.Join(c.Argv[2], "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if got := <-from; got != h.ID() {
		t.Errorf("for stream %d, want %d", got, h.ID())
	}
	// No third one from here.
	if _, _, err := l.Open(t.Context(), wire.Request{Kind: wire.KindLink, Secret: make([]byte, 32)}); !errors.Is(err, errno.EOPNOTSUPP) {
		t.Errorf("a link from a moved link: %v", err)
	}
}

// stays dials and wants a link over the pipes, and the reason.
func stays(t *testing.T, c *Command, why string) time.Duration {
	t.Helper()
	start := time.Now()
	l, err := c.Dial(t.Context(), guest())
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	if l.Way != "command" || !strings.HasPrefix(l.Why, "no Hyper-V socket: ") || !strings.Contains(l.Why, why) {
		t.Errorf("way %q, %q, want %q", l.Way, l.Why, why)
	}
	if _, _, err := l.Open(t.Context(), wire.Request{Kind: wire.KindStat, Path: []byte(`C:\`)}); err != nil {
		t.Errorf("over the pipes: %v", err)
	}
	l.End()
	if unix.Kill(l.PID, 0) == nil {
		t.Error("the agent outlives its link")
	}
	return took
}

// TestStay has all that keeps a link where it is.
func TestStay(t *testing.T) {
	none := errors.New("no answer from CID 2 port 9 within 3s")
	cases := []struct {
		name   string
		change func(c *Command, s *standIn)
		why    string
		asked  bool // the agent listened
	}{
		{"no WSL", func(c *Command, _ *standIn) { c.Door.Missing = func() error { return errors.New("this is not WSL 2") } }, "this is not WSL 2", false},
		{"another agent", func(c *Command, _ *standIn) {
			c.Door.Fits = func(p wire.Hello) error { return errors.New("the agent runs on " + p.OS) }
		}, "the agent runs on linux", false},
		{"nobody listens", func(c *Command, _ *standIn) {
			c.Door.Dial = func(context.Context, string) (*os.File, error) { return nil, none }
		}, none.Error(), true},
		{"the agent can't listen", func(_ *Command, s *standIn) { s.path = ""; _ = os.Setenv(doorVariable, "/none/s") }, "/none/s", false},
		{"the agent has no such thing", func(_ *Command, s *standIn) { _ = os.Unsetenv(doorVariable) }, "no further link from here", false},
		{"the machine's id is unknown", func(c *Command, s *standIn) {
			c.Door.MachineID = func(context.Context) (string, error) { return "", errors.New("?") }
		}, "dialled stand-in for ", true},
		{"somebody else listens", func(c *Command, s *standIn) {
			c.Door.Dial = func(context.Context, string) (*os.File, error) {
				a, b := net.Pipe()
				s.work.Go(func() { _, _ = io.Copy(b, b) }) // an echo
				s.cuts = append(s.cuts, func() { _ = a.Close() })
				return s.join(a)
			}
		}, "the other end is the guest that dialled", true},
		{"it hangs up", func(c *Command, s *standIn) {
			c.Door.Dial = func(context.Context, string) (*os.File, error) {
				a, b := net.Pipe()
				_ = b.Close()
				return s.join(a)
			}
		}, "proof: ", true},
	}
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			c, s := door(t)
			tt.change(c, s)
			stays(t, c, tt.why)
			if tt.asked != !c.Door.again.IsZero() && tt.why != "/none/s" && tt.why != "no further link from here" {
				t.Errorf("to be tried again after %v", c.Door.again)
			}
		})
	}
}

// TestStranger wants nothing of the link to be said to who can't prove to be the
// agent.
func TestStranger(t *testing.T) {
	c, s := door(t)
	heard := make(chan []byte, 1)
	c.Door.Dial = func(context.Context, string) (*os.File, error) {
		a, b := net.Pipe()
		s.work.Go(func() {
			defer b.Close()
			got := make([]byte, 44)
			_, _ = io.ReadFull(b, got)
			// A challenge as an agent has it, and then a tag that can't be right.
			_, _ = b.Write(append([]byte("drvproof\x01\x02\x02\x00"), make([]byte, 32)...))
			_, _ = b.Write(make([]byte, 32))
			rest, _ := io.ReadAll(b)
			heard <- append(got, rest...)
		})
		return s.join(a)
	}
	stays(t, c, "doesn't know the secret")
	s.cut()
	if got := <-heard; len(got) != 76 || bytes.Contains(got, []byte(wire.Magic)) {
		t.Errorf("a stranger heard %d bytes: %q", len(got), got)
	}
}

// TestMoveAgain has a host that doesn't answer for a while: only the first link
// waits for it.
func TestMoveAgain(t *testing.T) {
	c, s := door(t)
	var dials int
	slow := func(ctx context.Context, port string) (*os.File, error) {
		dials++
		time.Sleep(300 * time.Millisecond)
		return nil, errors.New("nothing")
	}
	c.Door.Dial = slow
	if took := stays(t, c, "nothing"); took < 300*time.Millisecond {
		t.Errorf("it took %v", took)
	}
	stays(t, c, "nothing")
	if dials != 1 {
		t.Errorf("dialled %d times, want once", dials)
	}
	c.Door.Dial = s.dial
	c.Door.again = time.Now() // the time has passed
	l, err := c.Dial(t.Context(), guest())
	if err != nil {
		t.Fatal(err)
	}
	if l.Way != "hyperv" || !c.Door.again.IsZero() {
		t.Errorf("way %q, %q", l.Way, l.Why)
	}
	l.End()
}

// TestMoveLost cuts a moved link: it ends at once, and the next one stays.
func TestMoveLost(t *testing.T) {
	c, s := door(t)
	l, err := c.Dial(t.Context(), guest())
	if err != nil {
		t.Fatal(err)
	}
	s.cut()
	select {
	case <-l.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the link goes on")
	}
	if err := l.Err(); !errors.Is(err, errno.ECONNRESET) {
		t.Errorf("it ended with %v", err)
	}
	l.End()
	noted(t, c.Door, func(d *Door) bool { return d.failed != nil })
	stays(t, c, "the last one, port stand-in for machine 7, failed after ")
}

// TestMoveAgentDies kills the agent: that says nothing of the stand-in, but if each
// agent dies so it may be what the stand-in does to it.
func TestMoveAgentDies(t *testing.T) {
	c, _ := door(t)
	for i := range moveDeaths {
		l, err := c.Dial(t.Context(), guest())
		if err != nil {
			t.Fatal(err)
		}
		if l.Way != "hyperv" {
			t.Errorf("after %d deaths: %q, %q", i, l.Way, l.Why)
		}
		killAgent(t, l)
		if err := l.Err(); err == nil || errors.Is(err, net.ErrClosed) {
			t.Errorf("it ended with %v", err)
		}
		noted(t, c.Door, func(d *Door) bool { return d.deaths == i+1 || d.failed != nil })
	}
	stays(t, c, "3 agents in a row ended within 30s of it: ")
}

// TestMoveEndsLast ends a moved link whose last words come late, later than the end of
// the agent's stdin: they count, so the files of sockets that were closed in good order
// stay.
func TestMoveEndsLast(t *testing.T) {
	c, s := door(t)
	s.delay = 50 * time.Millisecond
	l, err := c.Dial(t.Context(), guest())
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	var handles []*link.Stream
	for i := range 4 {
		name := string(rune('a' + i))
		h, _, err := l.Open(t.Context(), wire.Request{Kind: wire.KindBind, Path: []byte(`C:\` + name), Mode: 0o700})
		if err != nil {
			t.Fatal(err)
		}
		files, handles = append(files, filepath.Join(c.Argv[2], name)), append(handles, h)
	}
	for _, h := range handles {
		if err := h.CloseWrite(); err != nil {
			t.Error(err)
		}
	}
	l.End()
	for _, f := range files {
		if _, err := os.Stat(f); err != nil {
			t.Errorf("a socket that was closed before the link: %v", err)
		}
	}
}

// TestMoveCut has the connection break between the proof and the hello. The agent did not
// give up: what the guest has met is the reason.
func TestMoveCut(t *testing.T) {
	c, s := door(t)
	c.Door.Dial = func(ctx context.Context, port string) (*os.File, error) {
		far, err := (&net.Dialer{}).DialContext(ctx, "unix", s.path)
		if err != nil {
			return nil, err
		}
		a, b := net.Pipe()
		s.work.Go(func() {
			defer func() { _, _ = b.Close(), far.Close() }()
			for _, n := range []int64{44, 32} { // challenges and tags, and no hello
				_, _ = io.CopyN(far, b, n)
				_, _ = io.CopyN(b, far, n)
			}
		})
		return s.join(a)
	}
	stays(t, c, "hello of the link: ")
}

// TestMoveRefused has strangers knock until the agent listens no more: that is the
// reason, and not what became of our own connection.
func TestMoveRefused(t *testing.T) {
	knock := func(t *testing.T, path string) {
		for range 64 { // as docs/protocol.md has it
			k, err := net.Dial("unix", path)
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = k.Write([]byte("hello"))
			_ = k.Close()
		}
	}
	for name, dial := range map[string]func(ctx context.Context, path string) (*os.File, error){
		"while it is dialled": func(ctx context.Context, _ string) (*os.File, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		},
		"just before": func(_ context.Context, path string) (*os.File, error) {
			for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
				if _, err := os.Stat(path); err != nil {
					break // the reason is on its way
				}
			}
			return nil, errors.New("reset")
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := door(t)
			c.Door.Dial = func(ctx context.Context, _ string) (*os.File, error) {
				knock(t, s.path)
				return dial(ctx, s.path)
			}
			if took := stays(t, c, "the agent gave up: "); took > moveLimit/2 {
				t.Errorf("it took %v", took)
			}
			if why := c.Door.failed.Error(); !strings.Contains(why, "64 connections came that don't know the secret") {
				t.Errorf("it says %q", why)
			}
		})
	}
}

// killAgent kills the agent of a link, which ends.
func killAgent(t *testing.T, l *Link) {
	t.Helper()
	_ = unix.Kill(l.PID, unix.SIGKILL)
	select {
	case <-l.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the link goes on")
	}
	l.End()
}

// noted waits until the door knows something.
func noted(t *testing.T, d *Door, it func(d *Door) bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		d.mu.Lock()
		ok := it(d)
		d.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("it was not noted")
		}
	}
}

// TestMoveGivenUp ends the context while the host doesn't answer.
func TestMoveGivenUp(t *testing.T) {
	c, _ := door(t)
	ctx, cancel := context.WithCancel(t.Context())
	c.Door.Dial = func(ctx context.Context, _ string) (*os.File, error) {
		cancel()
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	if l, err := c.Dial(ctx, guest()); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", l, err)
	}
	if !c.Door.again.IsZero() {
		t.Error("it was taken for a failure")
	}
}

// TestHere wants this machine's own door to be closed without a wait, unless it
// is WSL.
func TestHere(t *testing.T) {
	d := NewDoor()
	if d.Missing() == nil {
		t.Skip("this is WSL 2")
	}
	c := &Command{Argv: self(t), Starter: Children(), Log: quiet, Door: d}
	d.Dial = func(context.Context, string) (*os.File, error) {
		t.Error("CID 2 is somebody else here")
		return nil, errors.New("dialled")
	}
	stays(t, c, "")
	if !d.again.IsZero() {
		t.Error("it was tried")
	}
}

// TestMachineChanged has the virtual machine get another id, as after each of its
// starts: a listener for the old one is never answered, which is bounded, and the
// next link is for the new one.
func TestMachineChanged(t *testing.T) {
	c, s := door(t)
	var id atomic.Value
	id.Store("machine 7")
	c.Door.MachineID = func(context.Context) (string, error) { return id.Load().(string), nil }
	c.Door.Dial = func(ctx context.Context, port string) (*os.File, error) {
		if port != "stand-in for "+id.Load().(string) {
			<-ctx.Done() // nobody ever answers
			return nil, context.Cause(ctx)
		}
		return s.dial(ctx, "stand-in for machine 7")
	}
	l, err := c.Dial(t.Context(), guest())
	if err != nil {
		t.Fatal(err)
	}
	if l.Way != "hyperv" {
		t.Errorf("way %q, %q", l.Way, l.Why)
	}
	// It changes, and what was of the old machine ends with it.
	id.Store("machine 8")
	killAgent(t, l)
	if l, err = c.Dial(t.Context(), guest()); err != nil {
		t.Fatal(err)
	}
	if l.Way != "hyperv" || l.Why != "port stand-in for machine 8" {
		t.Errorf("after the change: way %q, %q", l.Way, l.Why)
	}
	l.End()
	// It changes between the question and the dial.
	ask := c.Door.MachineID
	c.Door.MachineID = func(ctx context.Context) (string, error) {
		was, err := ask(ctx)
		id.Store("machine 9")
		return was, err
	}
	if took := stays(t, c, "not made within"); took > moveLimit+2*time.Second {
		t.Errorf("it took %v", took)
	}
}
