package agent

import (
	"context"
	"errors"
	"net"
	"time"

	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/socket"
	"drvsock/internal/wire"
)

// The pauses of a listener whose system has run out of something.
const (
	minPause = 5 * time.Millisecond
	maxPause = time.Second
)

// listen carries out KindListen. As natively, a second one only changes the
// backlog.
func (s *server) listen(in *link.Incoming) error {
	h, err := s.find(in.Request.From)
	if err != nil {
		return err
	}
	backlog := int(min(max(in.Request.Backlog, 1), maxBacklog))
	h.mu.Lock()
	err = h.sock.listen(backlog)
	begin := err == nil && !h.accepting
	h.accepting = h.accepting || begin
	h.mu.Unlock()
	if err != nil {
		return err
	}
	// The answer goes first, so that the guest knows of the listener before it
	// hears of a connection to it.
	if err := finish(in, wire.Answer{}); err != nil {
		return err
	}
	if begin && s.enter() {
		go func() {
			defer s.wg.Done()
			s.accept(h, backlog)
		}()
	}
	return nil
}

// accept offers the connections of h to the guest, at most limit of them
// unanswered at a time. The others wait in the system's backlog, where a
// connect that finds no room fails or waits as it would without drvsock.
func (s *server) accept(h *handle, limit int) {
	slots := make(chan struct{}, limit)
	pause := minPause
	for {
		select {
		case slots <- struct{}{}:
		case <-h.ctx.Done():
			return
		}
		conn, peer, err := h.sock.accept()
		if err != nil {
			<-slots
			if errors.Is(err, net.ErrClosed) || h.ctx.Err() != nil {
				return
			}
			// Out of descriptors or memory, or a client that has gone already:
			// the listener itself is sound.
			s.log.Warn("accept", "stream", h.id, "error", err, "pause", pause)
			if !sleep(h.ctx, pause) {
				return
			}
			pause = min(2*pause, maxPause)
			continue
		}
		pause = minPause
		if !s.enter() {
			abort(conn)
			return
		}
		go func() {
			defer s.wg.Done()
			stream, err := s.offer(h, peer)
			<-slots
			if err != nil {
				s.log.Info("connection refused by the guest", "stream", h.id, "error", err)
				abort(conn)
				return
			}
			s.relay(conn, stream)
		}()
	}
}

// offer opens the stream of a connection that came in on h.
func (s *server) offer(h *handle, peer socket.Peer) (*link.Stream, error) {
	if len(peer.Name) > maxPeer {
		return nil, errno.Errorf(errno.ENAMETOOLONG, errno.LayerAgent, "the peer's name has %d bytes", len(peer.Name))
	}
	stream, _, err := s.link.Open(h.ctx, wire.Request{Kind: wire.KindAccepted, From: h.id, Peer: peer.Name, Caller: announced(peer.Caller)})
	return stream, err
}

// maxPeer is the longest name that a system can report (sun_path of Linux).
const maxPeer = 108

// sleep waits for d and reports whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
