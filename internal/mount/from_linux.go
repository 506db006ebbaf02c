package mount

import (
	"context"
	"errors"
	"time"

	"drvsock/internal/errno"
	"drvsock/internal/link"
)

var errClosed = errno.Errorf(errno.ECONNABORTED, errno.LayerGuest, "the program closed its socket")

// connects says that the socket is about to be a connection, whose loss nobody
// can mend, and returns its stream; nil if it has no name any more that the host
// could be told. Who fails to connect says stays then.
//
// A host's socket that listens can't connect, so one that does by anticipation is
// made anew.
func (b *bound) connects(ctx context.Context) (*link.Stream, error) {
	b.turning.Lock() // two threads may connect one socket
	defer b.turning.Unlock()
	b.mu.Lock()
	old, early, unnamed := b.handle, b.backlog > 0 && !b.listens, b.unnamed
	b.connecting++
	b.mu.Unlock()
	if !early {
		return old, nil
	}
	old.Reset(errno.Errorf(errno.ECONNABORTED, errno.LayerGuest, "the program connects"))
	if unnamed {
		return nil, nil
	}
	for {
		select {
		case <-b.gone:
			return nil, errClosed
		default:
		}
		req, err := b.again()
		if err != nil {
			return nil, err
		}
		handle, _, err := b.v.opts.Host.Open(ctx, req)
		if errors.Is(err, errno.EADDRINUSE) && ctx.Err() == nil { // not taken back yet
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			return nil, err
		}
		b.takeFile()
		b.v.opts.Host.Route(handle, b.accepted)
		b.mu.Lock()
		b.handle, b.backlog = handle, 0
		b.mu.Unlock()
		select {
		case <-b.gone: // closed meanwhile
			_ = handle.Close()
			return nil, errClosed
		default:
		}
		return handle, nil
	}
}

// stays says that the socket did not become a connection: it is a socket with a
// name as before, and may yet listen.
func (b *bound) stays() {
	b.mu.Lock()
	b.connecting--
	b.mu.Unlock()
	b.v.sockets.mendMissed(b)
}
