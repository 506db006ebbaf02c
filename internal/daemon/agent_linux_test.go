package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"drvsock/internal/config"
	"drvsock/internal/control"
	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/transport"
	"drvsock/internal/wire"
)

// A fake is a way to an agent that is a goroutine here, and fails when told.
type fake struct {
	mu    sync.Mutex
	err   error
	dials []time.Time
	delay time.Duration
	far   *link.Link // the agent's end of the last link

	where, why string // of the links
}

func (f *fake) Kind() string   { return "fake" }
func (f *fake) String() string { return "a fake" }

func (f *fake) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *fake) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.dials)
}

func (f *fake) last() *link.Link {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.far
}

func (f *fake) Dial(ctx context.Context, cfg link.Config) (*transport.Link, error) {
	f.mu.Lock()
	f.dials = append(f.dials, time.Now())
	err, delay := f.err, f.delay
	f.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	a, b := net.Pipe()
	made := make(chan *link.Link, 1)
	go func() {
		l, err := link.New(b, link.Config{Role: wire.RoleAgent, Build: "fake", Handler: func(in *link.Incoming) {
			if s, err := in.Accept(wire.Answer{}); err == nil && in.Request.Kind != wire.KindBind {
				_ = s.Close()
			}
		}})
		if err != nil {
			panic(err)
		}
		made <- l
	}()
	l, err := link.New(a, cfg)
	if err != nil {
		return nil, err
	}
	far := <-made
	f.mu.Lock()
	f.far = far
	f.mu.Unlock()
	up := transport.NewLink(l, 0, func() { <-far.Done() })
	up.Way, up.Why = f.where, f.why
	return up, nil
}

func fakeAgent(f *fake) *agent {
	a := newAgent("", config.Agent{}, transport.Plan{}, nil, slog.New(slog.DiscardHandler))
	a.way = func(transport.Plan) transport.Dialer { return f }
	return a
}

// bubble is synctest.Test for what uses links: package link keeps channels in a
// pool, and those of a bubble are of no use outside. Two collections empty it.
func bubble(t *testing.T, fn func(t *testing.T)) {
	t.Helper()
	empty := func() {
		runtime.GC()
		runtime.GC()
	}
	empty()
	defer empty()
	synctest.Test(t, fn)
}

var stat = wire.Request{Kind: wire.KindStat, Path: []byte("x")}

func open(t *testing.T, a *agent) error {
	t.Helper()
	s, _, err := a.Open(t.Context(), stat)
	if err == nil {
		_ = s.Close()
	}
	return err
}

// TestOnDemand makes a link for the first call, and one only for many.
func TestOnDemand(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := &fake{delay: time.Second}
		a := fakeAgent(f)
		defer a.close()
		time.Sleep(time.Hour)
		if n := f.count(); n != 0 || a.status().State != control.LinkDown {
			t.Fatalf("%d links were made without a call, state %s", n, a.status().State)
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if err := open(t, a); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(time.Millisecond)
		if s := a.status().State; s != control.LinkStarting {
			t.Errorf("state %s, want starting", s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, _, err := a.Open(ctx, stat); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a call that has no time: %v", err)
		}
		wg.Wait()
		if n := f.count(); n != 1 {
			t.Errorf("%d links were made, want 1", n)
		}
		s := a.status()
		if s.State != control.LinkUp || s.Build != "fake" || s.Transport != "fake" || s.Command != "a fake" {
			t.Errorf("status %+v", s)
		}
	})
}

// TestTransport wants the status to say by what a link goes, and why.
func TestTransport(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := &fake{where: "hyperv", why: "port 9"}
		a := fakeAgent(f)
		defer a.close()
		if err := open(t, a); err != nil {
			t.Fatal(err)
		}
		if s := a.status(); s.Transport != "hyperv" || s.Reason != "port 9" {
			t.Errorf("status %+v", s)
		}
		_ = f.last().Close()
		synctest.Wait()
		if s := a.status(); s.Transport != "fake" || s.Reason != "" {
			t.Errorf("after its loss: status %+v", s)
		}
	})
}

// TestKnownLate has a try under way, without drvsock.exe, when somebody brings it.
func TestKnownLate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := &fake{delay: time.Second, err: errors.New("no drvsock.exe")}
		a := fakeAgent(f)
		defer a.close()
		var wg sync.WaitGroup
		for _, knows := range []bool{false, true, true} {
			wg.Go(func() {
				if knows {
					f.set(nil)
					a.know("/mnt/c/drvsock.exe")
				}
				if err := open(t, a); err != nil {
					t.Error(err)
				}
			})
			time.Sleep(time.Millisecond)
		}
		wg.Wait()
		if n := f.count(); n != 2 {
			t.Errorf("%d links were tried, want 2", n)
		}
	})
}

// TestBackOff has an agent that can't be reached: calls fail at once with the
// reason, and the pauses grow.
func TestBackOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := &fake{err: errors.New("no such host")}
		a := fakeAgent(f)
		defer a.close()
		for try := range 12 {
			// What is due is begun by a call, and that call gets its outcome.
			err := open(t, a)
			var e *errno.Error
			if !errors.As(err, &e) || e.Layer != errno.LayerLink || e.Errno != errno.ENETDOWN || !strings.Contains(e.Text, "no such host") {
				t.Fatalf("try %d: %v", try, err)
			}
			if n := f.count(); n != try+1 {
				t.Fatalf("%d links tried, want %d", n, try+1)
			}
			start := time.Now()
			if err := open(t, a); err == nil || f.count() != try+1 || time.Since(start) != 0 {
				t.Errorf("try %d: a call between: %v after %v, tries %d", try, err, time.Since(start), f.count())
			}
			s := a.status()
			if s.State != control.LinkWaiting || s.Attempts != try+1 || s.LastError == nil || s.LastError.Layer != "link" || s.NextTry == nil {
				t.Fatalf("try %d: status %+v", try, s)
			}
			want := min(firstPause<<min(try, 10), lastPause)
			if got := time.Until(*s.NextTry); got < want*3/4 || got > want*5/4 {
				t.Errorf("try %d: the next in %v, want about %v", try, got, want)
			}
			time.Sleep(time.Until(*s.NextTry))
		}
		f.set(nil)
		if err := open(t, a); err != nil {
			t.Errorf("when it is due and works: %v", err)
		}
	})
}

// TestLost fails streams at once, and lets an agent that can't live wait.
func TestLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := &fake{}
		a := fakeAgent(f)
		defer a.close()
		lose := func() {
			t.Helper()
			s, _, err := a.Open(t.Context(), wire.Request{Kind: wire.KindBind, Path: []byte("x")})
			if err != nil {
				t.Fatal(err)
			}
			a.mu.Lock() // so that whoever is first afterwards is the test
			_ = f.last().Close()
			start := time.Now()
			var e *errno.Error
			if _, err := s.Read(make([]byte, 1)); !errors.As(err, &e) || e.Layer != errno.LayerLink || time.Since(start) > 0 {
				t.Errorf("a stream of a lost link: %v after %v", err, time.Since(start))
			}
			a.mu.Unlock()
		}
		lose()
		if err := open(t, a); err == nil || !strings.Contains(err.Error(), "link lost") {
			t.Errorf("a call just after a link that did not hold: %v", err)
		}
		synctest.Wait()
		if s := a.status(); s.State != control.LinkWaiting || s.Attempts != 1 {
			t.Errorf("status %+v", s)
		}
		time.Sleep(firstPause * 2)
		lose()
		synctest.Wait()
		if s := a.status(); s.Attempts != 2 || time.Until(*s.NextTry) < firstPause {
			t.Errorf("a second loss: status %+v", s)
		}
		time.Sleep(lastPause)
		if err := open(t, a); err != nil {
			t.Fatal(err)
		}
		for range 2 { // pauses grow beyond heldAfter
			lose()
			time.Sleep(lastPause)
		}
		if err := open(t, a); err != nil {
			t.Fatal(err)
		}
		time.Sleep(heldAfter)
		lose()
		synctest.Wait()
		if s := a.status(); s.State != control.LinkDown || s.Attempts != 4 || s.LastError == nil {
			t.Errorf("after a link that held: status %+v", s)
		}
		if err := open(t, a); err != nil {
			t.Errorf("a call just after it: %v", err)
		}
		time.Sleep(pause(4))
		lose()
		synctest.Wait()
		if s := a.status(); s.State != control.LinkDown || s.Attempts != 0 {
			t.Errorf("after a link that held for long: status %+v", s)
		}
		if err := open(t, a); err != nil {
			t.Errorf("a call just after it: %v", err)
		}
	})
}

// TestNeeded makes links without a call when a forward listens on the host.
func TestNeeded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := &fake{err: errors.New("not yet")}
		a := fakeAgent(f)
		defer a.close()
		var needed atomic.Bool
		var ups atomic.Int32
		needed.Store(true)
		a.needed = needed.Load
		a.linked = func() { ups.Add(1) }
		a.poke()
		time.Sleep(10 * time.Second)
		if n := f.count(); n < 4 || n > 6 {
			t.Errorf("%d tries in 10 s", n)
		}
		f.set(nil)
		time.Sleep(time.Minute)
		if a.status().State != control.LinkUp || ups.Load() != 1 {
			t.Fatalf("state %s, told %d times of a link", a.status().State, ups.Load())
		}
		_ = f.last().Close()
		synctest.Wait()
		time.Sleep(time.Millisecond)
		if a.status().State != control.LinkUp || ups.Load() != 2 {
			t.Errorf("after a loss: state %s, told %d times", a.status().State, ups.Load())
		}
		needed.Store(false)
		n := f.count()
		_ = f.last().Close()
		time.Sleep(time.Hour)
		if f.count() != n {
			t.Errorf("%d links that nobody needs", f.count()-n)
		}
	})
}

// TestRoute brings what comes in to whom it is for, as long as the handle lives.
func TestRoute(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := &fake{}
		a := fakeAgent(f)
		defer a.close()
		var handles []*link.Stream
		got := make([][]string, 2)
		for i := range 2 {
			h, _, err := a.Open(t.Context(), wire.Request{Kind: wire.KindBind, Path: []byte("x")})
			if err != nil {
				t.Fatal(err)
			}
			a.Route(h, func(in *link.Incoming) {
				got[i] = append(got[i], string(in.Request.Peer))
				in.Refuse(errno.Errorf(errno.EACCES, errno.LayerGuest, "for a test"))
			})
			handles = append(handles, h)
		}
		ask := func(from uint32, peer string) error {
			_, _, err := f.last().Open(t.Context(), wire.Request{Kind: wire.KindAccepted, From: from, Peer: []byte(peer)})
			return err
		}
		for i, h := range handles {
			if err := ask(h.ID(), string(rune('a'+i))); !errors.Is(err, errno.EACCES) {
				t.Errorf("handle %d: %v", i, err)
			}
		}
		if !slices.Equal(got[0], []string{"a"}) || !slices.Equal(got[1], []string{"b"}) {
			t.Errorf("got %q", got)
		}
		handles[0].Reset(nil)
		synctest.Wait()
		if err := ask(handles[0].ID(), "c"); !errors.Is(err, errno.ECONNREFUSED) {
			t.Errorf("a handle that is over: %v", err)
		}
		if _, _, err := f.last().Open(t.Context(), stat); !errors.Is(err, errno.EOPNOTSUPP) {
			t.Errorf("a request that is not for a guest: %v", err)
		}
	})
}

// TestChange leaves the live link alone, and Close ends what waits.
func TestChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := &fake{}
		a := fakeAgent(f)
		if err := open(t, a); err != nil {
			t.Fatal(err)
		}
		a.change(config.Agent{Link: "y"}, transport.Plan{Argv: []string{"y"}})
		if a.status().State != control.LinkUp || a.planNow().Argv != nil || a.config().Link != "y" {
			t.Errorf("state %s, plan %+v, words %+v", a.status().State, a.planNow(), a.config())
		}
		_ = f.last().Close()
		synctest.Wait()
		if got := a.planNow().Argv; len(got) != 1 {
			t.Errorf("the next link's plan has %q", got)
		}
		f.delay = time.Hour
		time.Sleep(time.Minute)
		failed := make(chan error, 1)
		go func() { failed <- open(t, a) }()
		synctest.Wait()
		a.close()
		if err := <-failed; !errors.Is(err, errno.ENETDOWN) {
			t.Errorf("who waited when it was closed: %v", err)
		}
		if err := open(t, a); !errors.Is(err, errno.ENETDOWN) {
			t.Errorf("a call after close: %v", err)
		}
	})
}
