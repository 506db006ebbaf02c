package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
	"drvsock/internal/hyperv"
	"drvsock/internal/link"
	"drvsock/internal/proof"
	"drvsock/internal/wire"
)

const (
	// moveLimit bounds the whole of a move, whose parts have bounds of their own.
	moveLimit = 8 * time.Second
	// askLimit bounds the agent's answer.
	askLimit = 2 * time.Second
	// moveAgain is how long a move that failed is not tried again: it costs the
	// next link the time that it takes to fail.
	moveAgain = 5 * time.Minute
	// moveHeld is how long a moved link must hold to be no failed move: some hosts
	// take connections that then carry nothing (microsoft/WSL#41286).
	moveHeld = 30 * time.Second
	// reasonLimit bounds the wait for what the agent says of a dial that failed: that
	// comes by stdin and stdout, which are slow.
	reasonLimit = 200 * time.Millisecond
	// settleLimit bounds the wait for the agent to have read what was written last. With
	// all else that the end of an agent that stands still takes, a daemon that ends has
	// 5 s for it.
	settleLimit = 500 * time.Millisecond
	// moveDeaths is how many agents in a row may end so soon after a move: it may be
	// the socket that ends them.
	moveDeaths = 3
)

// A Door is the way from an agent's stdin and stdout to a Hyper-V socket, which
// carries many times as much: WSL copies stdin and stdout in pieces of 4 KiB,
// twice (docs/architecture.md). One Door serves the links to one agent, one after
// the other; it remembers what did not work. Its methods may be called by several
// goroutines at once.
type Door struct {
	Missing   func() error                                             // why there is none here, without a wait
	Fits      func(peer wire.Hello) error                              // why there is none to this agent
	MachineID func(ctx context.Context) (string, error)                // of this guest
	Dial      func(ctx context.Context, port string) (*os.File, error) // to the host

	mu     sync.Mutex
	failed error     // why the last move came to nothing
	again  time.Time // when the next may be tried
	deaths int       // agents in a row that ended soon after a move
}

// NewDoor returns the way to this machine's own host.
func NewDoor() *Door {
	return &Door{
		Missing: hyperv.Missing,
		Fits: func(peer wire.Hello) error {
			if peer.OS != "windows" {
				return fmt.Errorf("the agent runs on %s", peer.OS)
			}
			return nil
		},
		MachineID: func(ctx context.Context) (string, error) {
			// wslinfo asks in the way in which Windows programs are started.
			id, err := hyperv.MachineID(ctx, (&Command{Argv: []string{shell}}).environment(os.Environ()))
			return id.String(), err
		},
		Dial: hyperv.Dial,
	}
}

// A moved link, and what it hangs on.
type moved struct {
	*link.Link
	port   string
	handle *link.Stream // of the request; it ends with the link and the link with it
}

// move makes a further link beside l, which stays as it is.
func (d *Door) move(ctx context.Context, l *link.Link, cfg link.Config, log *slog.Logger) (*moved, error) {
	m, err := d.try(ctx, l, cfg, log)
	if err != nil {
		return nil, fmt.Errorf("no Hyper-V socket: %w", err)
	}
	return m, nil
}

func (d *Door) try(ctx context.Context, l *link.Link, cfg link.Config, log *slog.Logger) (*moved, error) {
	if err := d.Missing(); err != nil {
		return nil, err
	}
	if err := d.Fits(l.Peer()); err != nil {
		return nil, err
	}
	d.mu.Lock()
	failed, again := d.failed, d.again
	d.mu.Unlock()
	if time.Now().Before(again) {
		return nil, failed
	}
	ctx, cancel := context.WithTimeoutCause(ctx, moveLimit, fmt.Errorf("not made within %v", moveLimit))
	defer cancel()
	m, err := d.make(ctx, l, cfg, log)
	if err == nil || !errors.Is(context.Cause(ctx), context.Canceled) {
		d.remember(err)
	}
	return m, err
}

func (d *Door) remember(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failed, d.again = err, time.Time{}
	if err != nil {
		d.again = time.Now().Add(moveAgain)
	}
}

// attend ends m with the link that it was moved from, and notes how it ended.
func (d *Door) attend(m *moved, from *link.Link) {
	since := time.Now()
	select {
	case <-m.Done():
	case <-from.Done():
		_ = m.Close()
	}
	held := time.Since(since)
	m.settle()
	_ = m.handle.Close()
	<-from.Done() // whoever has the link ends both
	// An agent that died ends both as well, and says nothing of the transport, once.
	died := !errors.Is(from.Err(), net.ErrClosed)
	if d.deadly(died && held < moveHeld) {
		d.remember(fmt.Errorf("%d agents in a row ended within %v of it: %w", moveDeaths, moveHeld, from.Err()))
	}
	if died {
		return
	}
	if err := m.Err(); errors.Is(err, errno.ETIMEDOUT) || errors.Is(err, errno.ECONNRESET) && held < moveHeld {
		d.remember(fmt.Errorf("the last one, port %s, failed after %v: %w", m.port, held.Round(time.Second), err))
	}
}

// settle waits for the agent to have read all that a link had written when it was closed
// here. The request's stream goes another way, and its end would overtake that.
func (m *moved) settle() {
	if errors.Is(m.Err(), net.ErrClosed) {
		waitFor(m.handle.Done(), settleLimit)
	}
}

// deadly counts agents that died soon after a move. It tells if too many in a row have.
func (d *Door) deadly(soon bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !soon {
		d.deaths = 0
		return false
	}
	d.deaths++
	if d.deaths < moveDeaths {
		return false
	}
	d.deaths = 0
	return true
}

func (d *Door) make(ctx context.Context, l *link.Link, cfg link.Config, log *slog.Logger) (*moved, error) {
	machine, err := d.MachineID(ctx)
	if err != nil {
		machine = "" // the agent may find it
		log.Debug("the virtual machine's id is the agent's to find", "err", err)
	}
	secret := proof.NewSecret()
	handle, ans, err := ask(ctx, l, wire.Request{Kind: wire.KindLink, Path: []byte(machine), Secret: secret[:]})
	if err != nil {
		return nil, err
	}
	m := &moved{port: string(ans.Address), handle: handle}
	dialling, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-handle.Done():
			if reason := gaveUp(handle); reason != nil {
				cancel(reason)
			}
		case <-dialling.Done():
		}
	}()
	if m.Link, err = d.dial(dialling, m.port, secret, cfg); err != nil {
		if ctx.Err() == nil && waitFor(handle.Done(), reasonLimit) {
			if reason := gaveUp(handle); reason != nil {
				err = reason
			}
			return nil, err
		}
		handle.Reset(errno.Errorf(errno.ECANCELED, errno.LayerGuest, "given up"))
		return nil, err
	}
	return m, nil
}

// gaveUp is why the agent took back what a request had made, or the link did; nil if it
// gave no reason, as where it had a connection and lost it.
func gaveUp(handle *link.Stream) error {
	_, err := handle.Read(make([]byte, 1))
	if e := (*errno.Error)(nil); errors.As(err, &e) {
		return fmt.Errorf("the agent gave up: %w", e)
	}
	return nil
}

func ask(ctx context.Context, l *link.Link, req wire.Request) (*link.Stream, wire.Answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askLimit, fmt.Errorf("no answer from the agent within %v", askLimit))
	defer cancel()
	return l.Open(ctx, req)
}

// dial makes a link over a connection that has proved itself.
func (d *Door) dial(ctx context.Context, port string, secret proof.Secret, cfg link.Config) (*link.Link, error) {
	f, err := d.Dial(ctx, port)
	if err != nil {
		return nil, err
	}
	if err := proof.Prove(ctx, f, secret, proof.Party{Role: wire.RoleGuest, Side: proof.Dialled}); err != nil {
		_ = f.Close()
		return nil, err
	}
	w, err := again(f)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return over(ctx, f, w, cfg)
}

// again is a second descriptor of f.
func again(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	if cerr := raw.Control(func(s uintptr) { fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 3) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
