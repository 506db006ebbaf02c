package supervise

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/wire"
)

// Pauses between two tries to bring sockets back after the link was lost. Each
// may start an agent, but where the daemon does that, in its own time.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 30 * time.Second
	lastAsk    = 2 * time.Second
)

// restore brings the tree's bound sockets back on a new link, however long that
// takes, as long as there are any. Connections can't come back. It may be called at
// any time; where one call is at it, the others return, and that one goes on for them.
func (s *supervisor) restore() {
	select {
	case s.losses <- struct{}{}:
	default:
	}
	for len(s.losses) > 0 && s.mending.TryLock() {
		s.mend()
		s.mending.Unlock() // and then looks once more, for one who met the lock
	}
}

// mend is restore's work, by one goroutine at a time.
func (s *supervisor) mend() {
	none := s.sockets.empty()
	for pause := firstPause; ; pause = min(2*pause, s.host.patience) {
		select {
		case <-s.losses:
		default:
		}
		missing := 0
		for _, sock := range s.sockets.all() {
			if s.healthy(sock) {
				continue
			}
			if err := s.rebind(sock); err != nil {
				s.complain(sock, err)
				missing++
			}
		}
		if missing == 0 {
			return
		}
		select {
		case <-s.host.linked: // this try's own
		default:
		}
		select {
		case <-none:
			return
		case <-s.host.linked: // another call has a link
		case <-s.losses: // more of them may be without one than those that wait
			pause = firstPause / 2
		case <-time.After(pause + rand.N(pause)):
		}
	}
}

// complain tells of a socket that is not back, once for each reason.
func (s *supervisor) complain(sock *socket, err error) {
	level := slog.LevelWarn
	if text := err.Error(); text == sock.complaint {
		level = slog.LevelDebug
	} else {
		sock.complaint = text
	}
	s.log.Log(context.Background(), level, "socket not back yet", "path", sock.path(), "err", err)
}

// healthy tells if the socket needs no new host socket.
func (s *supervisor) healthy(sock *socket) bool {
	sock.mu.Lock()
	unneeded := sock.connected || sock.abandoned
	sock.mu.Unlock()
	if unneeded || !sock.alive() {
		return true
	}
	handle, _ := s.sockets.keys(sock)
	select {
	case <-handle.Done():
		return false
	default:
		return true
	}
}

// rebind makes the host's socket anew. An agent that was killed left the file
// behind, and nobody listens there: it is replaced if it is the very file that
// was made for this socket, by one with the mode that it has by now. The mode of a file
// that the agent took along when it ended is not known any more: it is bind's again.
//
// When the program closes the socket meanwhile, the name is not made, or not kept: the
// program may have unlinked it, or want it for another socket.
func (s *supervisor) rebind(sock *socket) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	go func() {
		select {
		case <-sock.gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := s.rebindWithin(ctx, sock)
	if !sock.alive() {
		return nil
	}
	return err
}

var errClosed = errno.Errorf(errno.ECANCELED, errno.LayerGuest, "the program closed its socket")

func (s *supervisor) rebindWithin(ctx context.Context, sock *socket) error {
	handle, err := s.host.open(ctx, sock.made)
	if errors.Is(err, errno.EADDRINUSE) {
		_, file := s.sockets.keys(sock)
		found, mode := sock.lookAt()
		if file == (fileID{}) || found != file {
			s.log.Warn("another file has the name of a socket that was lost", "path", sock.path())
			sock.giveUp()
			return nil
		}
		if err := s.removeStale(ctx, sock); err != nil {
			return err
		}
		again := sock.made
		again.Mode = mode
		handle, err = s.host.open(ctx, again)
	}
	if err != nil {
		return err
	}
	if !s.sockets.rebound(sock, handle, sock.look()) {
		handle.Reset(errClosed) // which takes the bind back
		return nil
	}
	sock.complaint = ""
	// Asked after the handle was changed: a listen that met the old one has left
	// it to us.
	if listening, backlog := sock.listens(); listening {
		err := finishOn(ctx, handle.Link(), wire.Request{Kind: wire.KindListen, From: handle.ID(), Backlog: backlog, Caller: sock.made.Caller})
		if err != nil {
			handle.Reset(err) // so that it isn't taken for one that is back
			return err
		}
	}
	s.log.Info("socket is back", "path", sock.path())
	return nil
}

// removeStale removes the socket's file if nobody listens on it. The caller has
// found it to be the file that was made for sock.
func (s *supervisor) removeStale(ctx context.Context, sock *socket) error {
	try := wire.Request{Kind: wire.KindConnect, Path: sock.made.Path, Nonblock: true, Caller: sock.made.Caller}
	if st, err := s.host.open(ctx, try); err == nil {
		st.Reset(errno.Errorf(errno.ECONNABORTED, errno.LayerGuest, "only looking if somebody listens"))
		return errno.Errorf(errno.EADDRINUSE, errno.LayerGuest, "somebody else listens")
	} else if !errors.Is(err, errno.ECONNREFUSED) {
		return err
	}
	err := s.finish(ctx, wire.Request{Kind: wire.KindUnlink, Path: sock.made.Path, Caller: sock.made.Caller})
	if errors.Is(err, errno.ENOTSOCK) {
		// A new agent can't tell a socket from a file where the system shows both
		// alike, as a Windows before 1909 does; we have seen it made.
		return sock.inFolder(func(dir int) error {
			return sock.owner.As(func() error { return unix.Unlinkat(dir, string(sock.base), 0) })
		})
	}
	return err
}

// finish makes a request whose stream carries nothing.
func (s *supervisor) finish(ctx context.Context, req wire.Request) error {
	st, err := s.host.open(ctx, req)
	if err != nil {
		return err
	}
	return st.Close()
}

// finishOn is finish on one link: From is a number of that link.
func finishOn(ctx context.Context, l *link.Link, req wire.Request) error {
	st, _, err := l.Open(ctx, req)
	if err != nil {
		return err
	}
	return st.Close()
}
