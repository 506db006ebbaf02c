package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"drvsock/internal/build"
	"drvsock/internal/control"
	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/relay"
	"drvsock/internal/wire"
)

// session is one process that uses a link of the daemon's as if it were its own:
// a link on which the daemon plays the agent. It ends with the real one, since
// what that carried is lost.
type session struct {
	pid     int
	program string
	agent   *agent
	up      *uplink
	log     *slog.Logger
	since   time.Time

	ready chan struct{} // closed when link is set
	link  *link.Link

	work    sync.WaitGroup
	streams atomic.Int64

	mu      sync.Mutex
	ended   bool
	handles map[uint32]*link.Stream // upstream, by the stream of the KindBind down here
	refused uint64
	problem *control.Problem // of the last request that was refused
}

// drain bounds the wait for what a session leaves to pass on.
const drain = 3 * time.Second

// serve is the life of the session: until the process is gone, the link is lost
// or ctx ends. It owns rw.
func (s *session) serve(ctx context.Context, rw io.ReadWriteCloser) error {
	stop := context.AfterFunc(ctx, func() { _ = rw.Close() })
	defer stop()
	l, err := link.New(rw, link.Config{Role: wire.RoleAgent, Build: build.Version(), Handler: s.handle, Log: s.log})
	if err != nil {
		return fmt.Errorf("link of a session: %w", err)
	}
	s.link = l
	close(s.ready)
	select {
	case <-l.Done():
	case <-s.up.Done():
	case <-ctx.Done():
	}
	_ = l.Close()
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.work.Wait()
	}()
	select {
	case <-done:
	case <-time.After(drain):
		s.log.Warn("connections outlive their session", "waited", drain)
	}
	return nil
}

// enter counts a request, unless the session is ending.
func (s *session) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.work.Add(1)
	}
	return !s.ended
}

// handle passes a request on to the agent. The link calls it in a goroutine of
// its own.
func (s *session) handle(in *link.Incoming) {
	select {
	case <-s.ready:
	case <-in.Context().Done():
		return
	}
	if !s.enter() {
		in.Refuse(errEnding)
		return
	}
	defer s.work.Done()
	req := in.Request
	if req.Kind == wire.KindLink {
		in.Refuse(errno.Errorf(errno.EOPNOTSUPP, errno.LayerLink, "no further link for a session"))
		return
	}
	open := s.up.Open
	if req.From != 0 {
		h := s.find(req.From)
		if h == nil {
			in.Refuse(errno.Errorf(errno.EBADF, errno.LayerLink, "stream %d is no bound socket", req.From))
			return
		}
		req.From = h.ID()
	}
	up, ans, err := open(in.Context(), req)
	if err != nil {
		s.note(&req, err)
		in.Refuse(err)
		return
	}
	switch req.Kind {
	case wire.KindBind:
		// Before the answer: the other side may refer to it as soon as it has it.
		s.add(in.ID, up)
		defer s.forget(in.ID)
		s.up.route(up, func(acc *link.Incoming) { s.accepted(in.ID, acc) })
	case wire.KindConnect:
		s.streams.Add(1)
		defer s.streams.Add(-1)
	}
	down, err := in.Accept(ans)
	if err != nil {
		up.Reset(errGone)
		return
	}
	if req.Kind == wire.KindBind {
		hold(down, up)
		return
	}
	s.bridge(down, up)
}

// errGone takes back what a process had that is gone, or takes it back itself. It
// is not of errno.LayerLink: the agent's link is sound.
var errGone = errno.Errorf(errno.ECANCELED, errno.LayerGuest, "taken back by the guest")

// hold passes on the end of a handle, whose streams carry nothing, until both are
// over.
func hold(down, up *link.Stream) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := up.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			_ = down.CloseWrite()
		} else {
			down.Reset(err)
		}
	}()
	if _, err := down.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
		_ = up.CloseWrite() // the agent ends its direction when it has closed the socket
	} else {
		up.Reset(errGone)
	}
	<-done
	_, _ = up.Close(), down.Close()
}

// accepted passes on that a host program connected to a socket of the session.
func (s *session) accepted(id uint32, in *link.Incoming) {
	if !s.enter() {
		in.Refuse(errno.Errorf(errno.ECONNREFUSED, errno.LayerGuest, "the program is gone"))
		return
	}
	defer s.work.Done()
	req := in.Request
	req.From = id
	down, ans, err := s.link.Open(in.Context(), req)
	if err != nil {
		in.Refuse(err)
		return
	}
	up, err := in.Accept(ans)
	if err != nil {
		down.Reset(err)
		return
	}
	s.streams.Add(1)
	defer s.streams.Add(-1)
	s.bridge(up, down)
}

func (s *session) bridge(a, b *link.Stream) {
	if err := relay.Bridge(a, b); err != nil {
		s.log.Debug("connection ended", "err", err)
	}
}

func (s *session) add(id uint32, up *link.Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handles[id] = up
}

func (s *session) forget(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.handles, id)
}

func (s *session) find(id uint32) *link.Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handles[id]
}

// note keeps for status and log that a request was refused. That one was given up
// is nobody's refusal.
func (s *session) note(req *wire.Request, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	s.log.Info("refused", "kind", req.Kind.String(), "path", string(req.Path), "program", req.Caller.Program, "caller", req.Caller.PID, "err", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused++
	s.problem = newProblem(err)
}

func (s *session) status() control.SessionStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := control.SessionStatus{
		PID: s.pid, Program: s.program, Agent: s.agent.name, Since: s.since,
		Streams: int(s.streams.Load()), Listeners: len(s.handles), Refused: s.refused, LastError: s.problem,
	}
	select {
	case <-s.ready:
		st.Out, st.In = s.link.Bytes() // it is the agent's end
	default:
	}
	return st
}

// nameOf is the name of a process, as far as it can be told.
func nameOf(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
