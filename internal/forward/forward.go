package forward

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"drvsock/internal/config"
	"drvsock/internal/endpoint"
	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/socket"
	"drvsock/internal/wire"
)

// A forward is one listener with its connections.
type forward struct {
	set      *Set
	cfg      config.Resolved
	from, to endpoint.Name // as cfg has them, or the host's names of drive paths
	log      *slog.Logger
	ctx      context.Context // ends the listener, and not its connections
	stop     context.CancelFunc
	kick     chan struct{} // there is a new link
	tried    chan error    // the outcome of the first try to listen
	done     chan struct{} // run has returned
	opening  chan struct{} // a place for each connection that waits to be opened
	agents   agents        // for the filter

	mu        sync.Mutex
	applied   bool              // by Apply; guarded by Set.edit
	env       map[string]string // of the configuration, which may change it alone
	state     State
	since     time.Time
	address   string
	lastError *Error
	conns     map[*connection]struct{}
	total     uint64
	refused   uint64
	failed    uint64
	in, out   uint64 // of connections that are over
}

// firstTry waits for the outcome of the first try to listen, or for a while.
func (f *forward) firstTry(within time.Duration) error {
	select {
	case err := <-f.tried:
		return err
	case <-time.After(within):
		return nil
	}
}

func (f *forward) adopt(env map[string]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied = true
	f.env = env
}

// isLink tells whether err is about the link, and not an answer of the host or
// of this system.
func isLink(err error) bool {
	var e *errno.Error
	if errors.As(err, &e) {
		return e.Layer == errno.LayerLink
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// layered gives an error that came of the time alone its layer: what was waited
// for is the link, or an answer by it.
func layered(err error) error {
	if isLink(err) {
		return errno.FromSystem(err, errno.LayerLink)
	}
	return err
}

// run listens until the forward is stopped.
func (f *forward) run() {
	defer close(f.done)
	pause := retryFirst
	for {
		serve, err := f.listen()
		err = layered(err)
		f.became(err)
		select {
		case f.tried <- err:
		default: // not the first
		}
		if err == nil {
			pause = retryFirst
			var again bool
			err, again = serve()
			if f.ctx.Err() != nil {
				return
			}
			f.became(err)
			if again {
				continue
			}
		}
		select {
		case <-f.ctx.Done():
			return
		case <-f.kick:
			pause = retryFirst
		case <-time.After(pause + rand.N(pause/4)):
			pause = min(2*pause, retryMost)
		}
	}
}

// became notes what came of listening.
func (f *forward) became(err error) {
	switch {
	case err == nil:
		f.change(Listening, nil)
	case f.ctx.Err() != nil:
	case isLink(err):
		f.change(Waiting, err)
	default:
		f.change(Failed, err)
	}
}

// change notes what the listener does now.
func (f *forward) change(s State, why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if why != nil {
		f.lastError = newError(why)
	}
	if f.state == s {
		return
	}
	f.state, f.since = s, time.Now()
	switch {
	case s == Listening:
		f.log.Info("listening", "on", f.cfg.Listen, "for", f.cfg.Connect)
	case why != nil:
		f.log.Warn("not listening", "on", f.cfg.Listen, "state", string(s), "err", why)
	}
}

// listen begins to listen. serve then returns when the listener has ended, why,
// and whether it is to be made anew at once.
func (f *forward) listen() (serve func() (err error, again bool), err error) {
	if f.from.Side == endpoint.Host {
		return f.listenHost()
	}
	return f.listenGuest()
}

func (f *forward) listenGuest() (func() (error, bool), error) {
	if f.from.Network != wire.NetTCP && !f.from.Abstract() {
		if err := f.folder(filepath.Dir(f.from.Path)); err != nil {
			return nil, errno.FromSystem(err, errno.LayerGuest)
		}
	}
	l, err := socket.Listen(f.from, socket.Options{
		Mode: f.cfg.Perm, UID: f.cfg.UID, GID: f.cfg.GID, Replace: true, Log: f.log,
		Refused: func(who wire.Caller, why error) {
			f.refuse(f.identify(endpoint.Guest, who), errno.FromSystem(why, errno.LayerGuest))
		},
	})
	if err != nil {
		return nil, errno.FromSystem(err, errno.LayerGuest)
	}
	f.setAddress(l.Addr())
	return func() (error, bool) {
		closed := make(chan struct{})
		closer := context.AfterFunc(f.ctx, func() {
			defer close(closed)
			_ = l.Close()
		})
		stop := f.watch(l)
		err := f.accept(l)
		lost := stop()
		if closer() {
			_ = l.Close()
		} else {
			<-closed // accept may be back before, and who removes the forward waits for it to be gone
		}
		if lost != nil {
			return errno.FromSystem(lost, errno.LayerGuest), true
		}
		return err, false
	}, nil
}

// watch closes a listener whose file somebody has removed, as those do who clean up
// temporary files, or who mount over a folder: it would listen where nobody can
// connect. stop ends that, and says why if it came to it.
func (f *forward) watch(l socket.Listener) (stop func() error) {
	file, ok := l.(interface{ Lost() error })
	if !ok {
		return func() error { return nil }
	}
	var lost error
	done := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		t := time.NewTicker(f.set.watchEvery)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
			}
			if lost = file.Lost(); lost != nil {
				_ = l.Close()
				return
			}
		}
	})
	return func() error {
		close(done)
		work.Wait()
		return lost
	}
}

// folder makes the folder of a guest's socket, as systemd does for its: a file
// system that is empty after each start, such as /run/user/1000, is where most
// lie. A folder of another user is no place for one, whoever made it: that one
// could put a socket of his own under the name that clients trust.
func (f *forward) folder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	uid, err := ownerOf(dir)
	if err == nil && uid != 0 && uid != os.Geteuid() && uid != f.cfg.UID {
		err = errno.Errorf(errno.EACCES, errno.LayerGuest, "the folder %s belongs to user %d", dir, uid)
	}
	return err
}

// setAddress notes where the listener is, if its name left that open.
func (f *forward) setAddress(a string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.address = ""
	if f.from.Network == wire.NetTCP && strings.HasSuffix(f.from.Path, ":0") {
		f.address = endpoint.Name{Side: f.from.Side, Network: wire.NetTCP, Path: a}.String()
	}
}

// accept takes clients of a guest listener until it is closed.
func (f *forward) accept(l socket.Listener) error {
	const first, most = 10 * time.Millisecond, time.Second
	pause := first
	for {
		select {
		case f.opening <- struct{}{}:
		case <-f.ctx.Done():
			return nil
		}
		c, peer, err := l.Accept()
		if err == nil {
			pause = first
			if !f.set.enter() {
				_ = c.Close()
				return nil
			}
			go func() {
				defer f.set.work.Done()
				f.fromGuest(c, peer.Caller)
			}()
			continue
		}
		<-f.opening
		if f.ctx.Err() != nil {
			return nil
		}
		e := errno.FromSystem(err, errno.LayerGuest)
		if errors.Is(err, net.ErrClosed) || !passes(e.Errno) {
			return e
		}
		if e.Errno != errno.ECONNABORTED {
			f.note(e)
			if pause == first {
				f.log.Warn("accepting pauses", "err", e)
			}
		}
		select {
		case <-f.ctx.Done():
		case <-time.After(pause):
			pause = min(2*pause, most)
		}
	}
}

// passes tells whether an error of accept(2) is about a shortage or a single
// connection, and not about the listener.
func passes(e errno.Errno) bool {
	switch e {
	case errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ECONNABORTED, errno.EINTR, errno.EAGAIN, errno.EPERM, errno.EPROTO:
		return true
	}
	return false
}

func (f *forward) listenHost() (func() (error, bool), error) {
	ctx, cancel := context.WithTimeout(f.ctx, dialTimeout)
	defer cancel()
	perm := f.cfg.Perm
	if perm == 0 {
		perm = 0o600
	}
	handle, ans, err := f.bind(ctx, wire.Request{
		Kind: wire.KindBind, Network: f.from.Network, Path: []byte(f.from.Path), Mode: uint32(perm),
		Replace: true, Message: f.cfg.Message, Access: f.cfg.AccessBytes(), Caller: self(),
	})
	if err != nil {
		return nil, err
	}
	f.set.host.Route(handle, f.fromHost)
	// On the handle's own link: on the next one its id means another stream.
	s, _, err := handle.Link().Open(ctx, wire.Request{Kind: wire.KindListen, From: handle.ID(), Backlog: backlog, Caller: self()})
	if err != nil {
		handle.Reset(err) // which takes the bind back
		return nil, err
	}
	_ = s.Close()
	f.setAddress(string(ans.Address))
	return func() (error, bool) {
		select {
		case <-handle.Done():
		case <-f.ctx.Done():
			takeBack(handle)
			return nil, false
		}
		select {
		case <-handle.Link().Done():
			return errno.Errorf(errno.ECONNRESET, errno.LayerLink, "%v", handle.Link().Err()), true
		default:
			return errno.Errorf(errno.EIO, errno.LayerAgent, "the listener was ended"), false
		}
	}, nil
}

// takeBack has the agent close a listener, and waits until it has: from then on
// others can have the place. Its own end of the stream says so; Close would have
// its link answer in its stead.
func takeBack(handle *link.Stream) {
	_ = handle.CloseWrite()
	t := time.NewTimer(closePatience)
	defer t.Stop()
	select {
	case <-handle.Done():
	case <-t.C:
		handle.Reset(errno.Errorf(errno.ECANCELED, errno.LayerGuest, "the forward is removed"))
	}
}

// bind makes the host's socket. A name that is in use may be that of a listener
// which was just taken back, so a moment is given to that.
func (f *forward) bind(ctx context.Context, req wire.Request) (*link.Stream, wire.Answer, error) {
	for wait := 50 * time.Millisecond; ; wait *= 2 {
		handle, ans, err := f.set.host.Open(ctx, req)
		if err == nil || !errors.Is(err, errno.EADDRINUSE) || wait > 400*time.Millisecond {
			return handle, ans, err
		}
		select {
		case <-ctx.Done():
			return nil, wire.Answer{}, err
		case <-time.After(wait):
		}
	}
}

// self is this process as a caller: a listener is nobody else's.
func self() wire.Caller {
	return wire.Caller{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), PID: uint32(os.Getpid()), Program: "drvsock"}
}

// note keeps what went wrong for the status.
func (f *forward) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastError = newError(err)
}
