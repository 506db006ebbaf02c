package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"drvsock/internal/errno"
	"drvsock/internal/proof"
	"drvsock/internal/wire"
)

// What a listener for one link grants to strangers, see docs/protocol.md.
const (
	admitFor    = 10 * time.Second // until somebody must have proved itself
	maxProving  = 16               // connections that prove themselves at a time
	maxUnproven = 64               // connections that failed to
	maxUntaken  = 8                // that accept gave no connection, one after the other
)

var (
	errNobody  = errno.Errorf(errno.ETIMEDOUT, errno.LayerAgent, "nobody who knows the secret came within %v", admitFor)
	errKnocked = errno.Errorf(errno.EACCES, errno.LayerAgent, "%d connections came that don't know the secret", maxUnproven)
	errAdmit   = errors.New("admitted")
)

// admit returns the first connection of ln whose other end proves to know the
// secret. It closes ln and all others.
func admit(ctx context.Context, ln net.Listener, secret proof.Secret, log *slog.Logger) (net.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(admitFor, func() { cancel(errNobody) })
	defer late.Stop()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	a := admission{ctx: ctx, cancel: cancel, secret: secret, log: log, won: make(chan net.Conn, 1)}
	for untaken := 0; ctx.Err() == nil; {
		c, err := ln.Accept()
		if err != nil {
			// One that left before it was taken; the listener's own end, if it goes on.
			if untaken++; untaken == maxUntaken {
				cancel(fmt.Errorf("accept: %w", err))
			}
			a.fail(err)
			continue
		}
		untaken = 0
		a.prove(c)
	}
	a.work.Wait() // their contexts have ended
	if a.failed > 1 {
		log.Warn("connections were refused that don't know the secret", "count", a.failed)
	}
	select {
	case c := <-a.won:
		return c, nil
	default:
		return nil, context.Cause(ctx)
	}
}

// admission is the state of one admit.
type admission struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	secret proof.Secret
	log    *slog.Logger
	won    chan net.Conn
	work   sync.WaitGroup

	mu      sync.Mutex
	proving []*candidate // the oldest first
	failed  int
}

type candidate struct{ cancel context.CancelFunc }

// prove has c prove itself. Who is silent must not keep others out: the oldest
// candidate gives way.
func (a *admission) prove(c net.Conn) {
	ctx, cancel := context.WithCancel(a.ctx)
	me := &candidate{cancel}
	a.mu.Lock()
	if len(a.proving) == maxProving {
		a.proving[0].cancel()
		a.proving = a.proving[1:]
	}
	a.proving = append(a.proving, me)
	a.mu.Unlock()
	a.work.Go(func() {
		defer cancel()
		err := proof.Prove(ctx, c, a.secret, proof.Party{Role: wire.RoleAgent, Side: proof.Listened})
		a.forget(me)
		if err == nil {
			select {
			case a.won <- c:
				a.cancel(errAdmit)
				return
			default: // two at a time; the guest makes only one
			}
		}
		_ = c.Close()
		if err != nil {
			a.fail(err)
		}
	})
}

func (a *admission) forget(me *candidate) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, c := range a.proving {
		if c == me {
			a.proving = append(a.proving[:i:i], a.proving[i+1:]...)
			return
		}
	}
}

// fail counts one that got nowhere, and says so of the first: the others are
// counted at the end.
func (a *admission) fail(err error) {
	if a.ctx.Err() != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failed++
	if a.failed == 1 {
		a.log.Warn("a connection was refused", "err", err)
	}
	if a.failed == maxUnproven {
		a.cancel(errKnocked)
	}
}
