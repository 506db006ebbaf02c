// Package link carries many streams over one byte stream, by the protocol of
// docs/protocol.md.
//
// One goroutine reads the link and never waits for anything else: what a
// stream's consumer doesn't take at once is queued, bounded by the stream's
// window. Whoever sends writes its frame itself, in turn (see outbox), so that
// no goroutine stands between a sender and the link.
package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// Defaults of Config.
const (
	// DefaultWindow lets a stream that is alone fill the pipe and both
	// processes' buffers; docs/protocol.md has the measurement.
	DefaultWindow       = 1 << 20
	DefaultPingAfter    = 5 * time.Second
	DefaultDeadAfter    = 15 * time.Second
	DefaultHelloTimeout = 15 * time.Second
)

// closeGrace bounds what Close and a protocol error wait for the last frames
// to be written, and what a failed write waits for the last frames to be read.
const closeGrace = time.Second

// A Config says how a link behaves. The zero value of a field is its default.
type Config struct {
	Role         wire.Role
	Build        string             // build of the program, for the peer's messages
	Window       uint32             // bytes that a stream may carry to this side ahead of its consumer
	PingAfter    time.Duration      // silence after which the peer is asked for a sign of life
	DeadAfter    time.Duration      // silence, or time that one write takes, after which the link is dead
	HelloTimeout time.Duration      // bound of the exchange of hellos
	Handler      func(in *Incoming) // called in its own goroutine for each OPEN of the peer; nil refuses all
	Log          *slog.Logger       // nil discards
}

// A Link is one connection to the peer with all its streams. Its methods may be
// called by several goroutines at once.
type Link struct {
	cfg  Config
	rw   io.ReadWriteCloser
	peer wire.Hello
	out  outbox
	in   reader

	heard atomic.Bool // the reader got bytes since the keeper last looked

	received, sent atomic.Uint64 // of all streams, for Bytes

	end  sync.Once
	done chan struct{}
	err  error // why it ended; set before done is closed

	mu      sync.Mutex
	streams map[uint32]*Stream
	nextID  uint32 // the next id of this side, 0 when they are used up
	lastID  uint32 // the highest id that the peer has opened
	pending int    // streams of the peer that are not answered yet
	ended   bool
}

// New exchanges hellos over rw and starts the link. It owns rw from the call
// on, also when it returns an error. Closing rw must end its Read and Write.
//
// Where rw has the method TryWrite(p) (n int, err error), which writes what
// fits without waiting, the link saves a goroutine switch per control frame;
// see Files.
func New(rw io.ReadWriteCloser, cfg Config) (*Link, error) {
	if cfg.Window == 0 {
		cfg.Window = DefaultWindow
	}
	if cfg.Window > wire.MaxWindow {
		cfg.Window = wire.MaxWindow
	}
	if cfg.PingAfter <= 0 {
		cfg.PingAfter = DefaultPingAfter
	}
	if cfg.DeadAfter <= 0 {
		cfg.DeadAfter = DefaultDeadAfter
	}
	if cfg.HelloTimeout <= 0 {
		cfg.HelloTimeout = DefaultHelloTimeout
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l := &Link{cfg: cfg, rw: rw, done: make(chan struct{}), streams: make(map[uint32]*Stream)}
	l.nextID = 1
	if cfg.Role == wire.RoleAgent {
		l.nextID = 2
	}
	l.in.init(l)
	l.out.init(l)
	ours := wire.Hello{
		Version: wire.Version, MinVersion: wire.MinVersion, Role: cfg.Role, Window: cfg.Window,
		Build: cfg.Build, OS: runtime.GOOS, Arch: runtime.GOARCH,
	}
	if err := l.hello(&ours); err != nil {
		return nil, err
	}
	go l.in.run()
	go l.out.run()
	go l.keep()
	return l, nil
}

// Peer returns the peer's hello.
func (l *Link) Peer() wire.Hello { return l.peer }

// Done is closed when the link has ended, for whatever reason.
func (l *Link) Done() <-chan struct{} { return l.done }

// Err says why the link ended: nil while it lives, net.ErrClosed after Close,
// io.EOF after the peer closed it, else an error that wraps an *errno.Error of
// the layer errno.LayerLink.
func (l *Link) Err() error {
	select {
	case <-l.done:
		return l.err
	default:
		return nil
	}
}

// Close ends the link and all its streams. What was written before is sent,
// within a second.
func (l *Link) Close() error {
	l.shutdown(net.ErrClosed, goaway(nil))
	return nil
}

// protocolError ends the link because the peer broke the protocol.
func (l *Link) protocolError(err error) {
	e := errno.Errorf(errno.EPROTO, errno.LayerLink, "%v", err)
	l.shutdown(fmt.Errorf("protocol error: %w", e), goaway(e))
}

// lost ends the link because its byte stream did.
func (l *Link) lost(doing string, err error) {
	e := errno.Errorf(errno.ECONNRESET, errno.LayerLink, "%v", err)
	if errors.Is(err, io.EOF) {
		e.Text = "the other side is gone"
	}
	l.shutdown(fmt.Errorf("%s the link: %w", doing, e), nil)
}

// shutdown ends the link once, with last as its last frame unless it is nil.
// Streams fail first, so that nobody waits for the last frame but the caller.
func (l *Link) shutdown(err error, last []byte) {
	l.end.Do(func() {
		l.err = err
		reason := linkReason(err)
		l.mu.Lock()
		l.ended = true
		streams := l.streams
		l.streams = nil
		l.mu.Unlock()
		idle := l.out.fail(reason)
		close(l.done)
		for _, s := range streams {
			s.fail(reason)
		}
		if last != nil {
			t := time.AfterFunc(closeGrace, func() { _ = l.rw.Close() })
			select {
			case <-idle:
				l.out.last(last)
			case <-time.After(closeGrace):
			}
			t.Stop()
		}
		_ = l.rw.Close() // nothing is left that its error could say
		l.cfg.Log.Debug("link ended", "role", l.cfg.Role.String(), "reason", err)
	})
}

// unwritable ends the link because nothing can be written any more. The other side
// may have left in good order, and its last words wait to be read: an END that has
// come counts, so the reader gets the time to meet the end itself.
func (l *Link) unwritable(err error) {
	t := time.NewTimer(closeGrace)
	defer t.Stop()
	select {
	case <-l.done:
	case <-t.C:
		l.lost("write to", err)
	}
}

// linkReason is what streams end with when the link ends with err.
func linkReason(err error) *errno.Error {
	var e *errno.Error
	switch {
	case errors.As(err, &e):
		if e.Layer == errno.LayerLink {
			return e
		}
		return errno.Errorf(errno.ECONNRESET, errno.LayerLink, "%v", err)
	case errors.Is(err, io.EOF):
		return errno.Errorf(errno.ECONNRESET, errno.LayerLink, "the other side closed the link")
	}
	return errno.Errorf(errno.ECONNRESET, errno.LayerLink, "link closed")
}

func goaway(e *errno.Error) []byte {
	b := make([]byte, wire.HeaderSize)
	if e != nil {
		b = wire.AppendRefusal(b, e)
	}
	wire.Header{Type: wire.TypeGoaway, Length: uint32(len(b) - wire.HeaderSize)}.Put(b)
	return b
}

// Open asks the peer for a stream and waits for the answer. A refusal is an
// *errno.Error, as is the end of the link. When ctx ends first, the request is
// reset and the error wraps ctx's.
func (l *Link) Open(ctx context.Context, req wire.Request) (*Stream, wire.Answer, error) {
	if ctx.Err() != nil {
		return nil, wire.Answer{}, openError(ctx)
	}
	b, err := req.Append(make([]byte, wire.HeaderSize, 256))
	if err != nil {
		return nil, wire.Answer{}, errno.Errorf(errno.EINVAL, errno.LayerLink, "%v", err)
	}
	// The turn to write is taken before the id, so that ids ascend on the link.
	if err := l.out.acquire(false, ctx.Done()); err != nil {
		if err == errCanceled {
			err = openError(ctx)
		}
		return nil, wire.Answer{}, err
	}
	s, answered, err := l.register()
	if err != nil {
		l.out.release()
		if err == errIDs {
			l.shutdown(fmt.Errorf("ids: %w", errIDs), goaway(nil))
		}
		return nil, wire.Answer{}, err
	}
	wire.Header{Type: wire.TypeOpen, Stream: s.id, Length: uint32(len(b) - wire.HeaderSize)}.Put(b)
	err = l.out.write(b)
	l.out.release()
	if err != nil {
		return nil, wire.Answer{}, err
	}
	select {
	case r := <-answered:
		if r.err != nil {
			return nil, wire.Answer{}, r.err
		}
		return s, r.answer, nil
	case <-ctx.Done():
	}
	// What ended ctx may have come after the answer on this very link.
	select {
	case r := <-answered:
		if r.err == nil {
			return s, r.answer, nil
		}
		return nil, wire.Answer{}, r.err
	default:
		s.Reset(errno.Errorf(errno.ECANCELED, errno.LayerGuest, "given up"))
		return nil, wire.Answer{}, openError(ctx)
	}
}

func openError(ctx context.Context) error {
	return fmt.Errorf("opening of a stream: %w", context.Cause(ctx))
}

var errIDs = errno.Errorf(errno.ENFILE, errno.LayerLink, "the link has used up its stream ids")

// register makes the next stream of this side and the channel on which its
// answer comes.
func (l *Link) register() (*Stream, <-chan answer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended:
		return nil, nil, linkReason(l.err)
	case l.nextID == 0:
		return nil, nil, errIDs
	case len(l.streams) >= wire.MaxStreams:
		return nil, nil, errno.Errorf(errno.ENFILE, errno.LayerLink, "%d streams are open on the link", len(l.streams))
	}
	s := newStream(l, l.nextID)
	c := make(chan answer, 1)
	s.answer = c
	l.streams[s.id] = s
	l.nextID += 2
	if l.nextID < s.id {
		l.nextID = 0
	}
	return s, c, nil
}

// Streams tells how many streams are open.
func (l *Link) Streams() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.streams)
}

// remove forgets a stream that is finished.
func (l *Link) remove(id uint32) {
	l.mu.Lock()
	delete(l.streams, id)
	l.mu.Unlock()
}
