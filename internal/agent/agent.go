package agent

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"drvsock/internal/link"
	"drvsock/internal/wire"
)

// Config says how to serve a link. The zero Config is a usable one on Windows.
type Config struct {
	// Drives gives each drive letter (either case) the folder that plays its
	// root. Windows has drives of its own and ignores it.
	Drives map[byte]string
	// SameUsers says that the guest's user ids are this system's: an agent that
	// is root gives a socket to the user who asked for it. Others ignore it.
	SameUsers bool
	// Stop, if not nil, ends the link and Serve when it is closed. A command
	// has it from StopOnSignal.
	Stop <-chan struct{}
	// Log gets refusals and what went wrong beside them; nil discards.
	Log *slog.Logger
	// Build is told to the guest, for people.
	Build string
	// Listen listens for a further link of the virtual machine with this id, "" for
	// those that can be found, and tells what the guest has to dial. nil refuses
	// further links.
	Listen func(machine string) (ln net.Listener, address string, err error)
}

// StopOnSignal returns a channel for Config.Stop that is closed by the first
// signal that asks the process to end, so that socket files don't outlive it.
// Package os/signal brings the closing of a console, logging off and shutting
// down as SIGTERM on Windows, and grants the time to react. release ends the
// watch; what is signalled after it has its usual effect again.
func StopOnSignal() (stop <-chan struct{}, release func()) {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	return ctx.Done(), cancel
}

// drain is how long Serve waits for its goroutines after the link has ended.
// They have nothing left to wait for by then; the bound is for a system call
// that a file system keeps.
const drain = 5 * time.Second

// stopFor is how long Serve waits for the link to be closed when it is told to stop.
// Windows may keep the close of a pipe that a Read waits on until the guest closes its
// end, and lets nobody wait when a user logs off.
const stopFor = 2 * time.Second

// Serve answers the guest on rw until the link ends, and then closes every
// socket and removes the socket files that it made and still owns. It owns rw
// from the call on. Serve returns nil if Stop or the guest ended the link, and an
// error if the link never came about, fell silent or broke the protocol.
func Serve(rw io.ReadWriteCloser, cfg Config) error {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	h, err := newHost(cfg)
	if err != nil {
		_ = rw.Close()
		return err
	}
	s := newServer(h, cfg)
	made := make(chan struct{})
	go func() {
		select {
		case <-cfg.Stop:
			_ = rw.Close() // the hellos know no other end
		case <-made:
		}
	}()
	l, err := link.New(rw, link.Config{
		Role:    wire.RoleAgent,
		Build:   cfg.Build,
		Handler: s.handle,
		Log:     cfg.Log,
	})
	close(made)
	if err != nil {
		select {
		case <-cfg.Stop:
			return nil
		default:
			return err
		}
	}
	s.start(l)
	var stopped bool
	select {
	case <-l.Done():
	case <-cfg.Stop: // never, if nil
		stopped = true
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			_ = l.Close()
		}()
		select {
		case <-closed:
		case <-time.After(stopFor):
		}
	}
	s.end(drain)
	cfg.Log.Info("link ended", "stopped", stopped, "reason", l.Err())
	if stopped {
		return nil
	}
	return orderly(l.Err())
}
