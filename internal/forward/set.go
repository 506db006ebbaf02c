package forward

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"drvsock/internal/config"
	"drvsock/internal/endpoint"
	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// A Set is all forwards that go by one host. Its methods may be called by
// several goroutines at once.
type Set struct {
	host Host
	log  *slog.Logger
	ctx  context.Context // ends with Close: listeners and openings end
	stop context.CancelFunc
	work sync.WaitGroup // connections, opening and open

	watchEvery time.Duration // how often a guest listener looks if its file is there

	edit sync.Mutex // one of Add, Remove and Apply at a time

	mu       sync.Mutex
	closed   bool
	forwards map[string]*forward
	conns    map[*connection]struct{} // also those of forwards that are gone
}

// watchEvery bounds how long a listener that somebody has removed is away.
const watchEvery = 5 * time.Second

// NewSet makes an empty set; log may be nil.
func NewSet(h Host, log *slog.Logger) *Set {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Set{host: h, log: log, forwards: make(map[string]*forward), conns: make(map[*connection]struct{}), watchEvery: watchEvery}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// Add starts a forward. Its guest listener listens when Add returns. Its host
// listener may still wait for a link, which the status tells; a refusal by the
// host is an error. Without a name, the forward gets one from what it listens
// on. A name must be new.
func (s *Set) Add(f config.Forward) error {
	r, err := f.Resolve()
	if err != nil {
		return err
	}
	s.edit.Lock()
	defer s.edit.Unlock()
	if r.Name == "" {
		r.Name = config.DefaultName(r.From, func(name string) bool { return s.get(name) != nil })
	}
	if s.get(r.Name) != nil {
		return fmt.Errorf("a forward named %s is there already", r.Name)
	}
	w, err := s.start(r)
	if err != nil {
		return err
	}
	if err := w.firstTry(dialTimeout + time.Second); err != nil && !isLink(err) {
		s.drop(w)
		return err
	}
	return nil
}

// Like finds the forward that is the same as r, or else one that listens where r
// would. The status is nil if there is neither.
func (s *Set) Like(r config.Resolved) (st *Status, same bool) {
	for _, f := range s.list() {
		f.mu.Lock()
		cfg := f.cfg
		cfg.Env = f.env
		f.mu.Unlock()
		if same = r.Same(cfg); same || st == nil && r.Listens(cfg) {
			now := f.status()
			st = &now
		}
		if same {
			break
		}
	}
	return st, same
}

// Saved says that a forward which came by Add is in the configuration now: an Apply
// without it ends it.
func (s *Set) Saved(name string) {
	s.edit.Lock()
	defer s.edit.Unlock()
	if f := s.get(name); f != nil {
		f.applied = true
	}
}

// Remove ends a forward's listener; connections that are open go on.
func (s *Set) Remove(name string) error {
	s.edit.Lock()
	defer s.edit.Unlock()
	f := s.get(name)
	if f == nil {
		return fmt.Errorf("no forward is named %s", name)
	}
	s.drop(f)
	return nil
}

// applyPatience is how long Apply waits for what the host says to listeners.
const applyPatience = 2 * time.Second

// Apply makes the set hold the forwards of fs, which have names, and those that
// came by Add. Forwards that are the same as before are left alone, and
// connections of the others go on. A listener that is refused stays in the set,
// is tried again, and is among the errors.
func (s *Set) Apply(fs []config.Forward) []error {
	s.edit.Lock()
	defer s.edit.Unlock()
	var errs []error
	want := make(map[string]config.Resolved)
	var order []string
	for _, f := range fs {
		r, err := f.Resolve()
		if err == nil && (r.Name == "" || want[r.Name].Name != "") {
			err = fmt.Errorf("the name is missing, or another's too")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("forward %s: %w", f.Name, err))
		}
		// One that is wrong now is not one that shall go: it stays as it was.
		if r.Name != "" {
			if err == nil {
				order = append(order, r.Name)
			}
			want[r.Name] = r
		}
	}
	var gone []*forward
	for _, f := range s.list() {
		if r, ok := want[f.cfg.Name]; (!ok && f.applied) || (ok && !r.Equal(f.cfg) && r.To != (endpoint.Name{})) {
			f.stop() // all at once: each may wait for the agent
			gone = append(gone, f)
		}
	}
	for _, f := range gone {
		s.drop(f)
	}
	var started []*forward
	for _, name := range order {
		if f := s.get(name); f != nil {
			f.adopt(want[name].Env)
			continue
		}
		f, err := s.start(want[name])
		if err != nil {
			errs = append(errs, fmt.Errorf("forward %s: %w", name, err))
			continue
		}
		f.adopt(want[name].Env)
		started = append(started, f)
	}
	deadline := time.Now().Add(applyPatience)
	for _, f := range started {
		if err := f.firstTry(time.Until(deadline)); err != nil && !isLink(err) {
			errs = append(errs, fmt.Errorf("forward %s: %w", f.cfg.Name, err))
		}
	}
	return errs
}

// LinkUp says that there is a new link: listeners on the host that wait are
// made at once.
func (s *Set) LinkUp() {
	for _, f := range s.list() {
		select {
		case f.kick <- struct{}{}:
		default:
		}
	}
}

// NeedsLink tells whether a forward listens on the host, so that the link must
// be up for its clients to reach it.
func (s *Set) NeedsLink() bool {
	for _, f := range s.list() {
		if f.from.Side == endpoint.Host {
			return true
		}
	}
	return false
}

// Close ends all forwards and all their connections.
func (s *Set) Close() {
	s.stop() // also an Add or Apply that waits for the host
	s.edit.Lock()
	defer s.edit.Unlock()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	for _, f := range s.list() {
		s.drop(f)
	}
	s.mu.Lock()
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()
	for c := range conns {
		c.end()
	}
	s.work.Wait()
}

func (s *Set) get(name string) *forward {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.forwards[name]
}

func (s *Set) list() []*forward {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := make([]*forward, 0, len(s.forwards))
	for _, f := range s.forwards {
		l = append(l, f)
	}
	return l
}

// start makes a forward of the set and begins to listen.
func (s *Set) start(r config.Resolved) (*forward, error) {
	f := &forward{
		set: s, cfg: r, from: s.onDrive(r.From), to: s.onDrive(r.To), log: s.log.With("forward", r.Name),
		kick: make(chan struct{}, 1), tried: make(chan error, 1), done: make(chan struct{}),
		opening: make(chan struct{}, maxOpening),
		env:     r.Env,
		state:   Waiting, since: time.Now(), conns: make(map[*connection]struct{}),
	}
	f.agents.init()
	if f.from.Side != r.From.Side && (r.UID >= 0 || r.GID >= 0) {
		return nil, &config.FieldError{Field: "owner", Err: fmt.Errorf("%s is a file of the host, which has its own owners", r.Listen)}
	}
	if f.from == f.to {
		return nil, &config.FieldError{Field: "connect", Err: fmt.Errorf("the same as listen: it would connect to itself")}
	}
	f.ctx, f.stop = context.WithCancel(s.ctx)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		f.stop()
		return nil, errno.Errorf(errno.ECANCELED, errno.LayerGuest, "the forwards are closed")
	}
	s.forwards[r.Name] = f
	s.mu.Unlock()
	go f.run()
	return f, nil
}

// drop ends a forward's listener and forgets it.
func (s *Set) drop(f *forward) {
	s.mu.Lock()
	if s.forwards[f.cfg.Name] == f {
		delete(s.forwards, f.cfg.Name)
	}
	s.mu.Unlock()
	f.stop()
	<-f.done
}

// onDrive gives the host's endpoint for a guest path that lies on a drive.
func (s *Set) onDrive(n endpoint.Name) endpoint.Name {
	if n.Side != endpoint.Guest || n.Abstract() {
		return n
	}
	switch n.Network {
	case wire.NetUnix, wire.NetAssuan, wire.NetCygwin:
		if path, ok := s.host.Path(n.Path); ok {
			// What is a path here has no variables there.
			return endpoint.Name{Side: endpoint.Host, Network: n.Network, Path: strings.ReplaceAll(path, "%", "%%")}
		}
	}
	return n
}

// enter counts a connection in; false after Close.
func (s *Set) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.work.Add(1)
	}
	return !s.closed
}
