// Package forward keeps forwards up: a listener on one side, and for each
// connection to it a connection to another endpoint, on either side.
//
//	listens on  connects to  joined by
//	guest       host         relay.Join of the socket and the stream of KindConnect
//	host        guest        relay.Join, for each KindAccepted of the stream of KindBind
//	guest       guest        relay.Local
//	host        host         relay.Bridge of the two streams
//
// A forward that can't listen tries again; a connection that can't be opened is
// closed, so that its program sees an end of stream, or ECONNRESET where it has
// written already. A listener that ends leaves open connections alone.
package forward

import (
	"context"
	"time"

	"drvsock/internal/link"
	"drvsock/internal/wire"
)

// A Host is one agent. Its methods may be called by several goroutines at once.
type Host interface {
	// Open makes a request on the live link. It waits for a link that is on its
	// way, bounded by ctx, and fails at once with an error of errno.LayerLink
	// while none is to be had.
	Open(ctx context.Context, req wire.Request) (*link.Stream, wire.Answer, error)
	// Route says who gets the KindAccepted requests that refer to handle, until
	// handle is over. It is called between the bind's answer and KindListen.
	Route(handle *link.Stream, accepted func(*link.Incoming))
	// Path gives the host's name of a guest path that lies on a drive.
	Path(guestPath string) (hostPath string, ok bool)
}

const (
	// dialTimeout bounds the opening of one connection, with the wait for a link.
	dialTimeout = 15 * time.Second
	// maxOpening bounds the connections of one forward that wait to be opened.
	// The rest wait in the listener's backlog.
	maxOpening = 1024
	// backlog is what host listeners ask for; the host's system caps it.
	backlog = 128

	// closePatience bounds the wait for the agent's closing of a listener.
	closePatience = 2 * time.Second

	retryFirst = time.Second // pause before a listener is tried again
	retryMost  = time.Minute
)
