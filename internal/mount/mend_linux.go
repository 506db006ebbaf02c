package mount

import (
	"bytes"
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// Pauses between two tries to bring sockets back after the link was lost.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// restore brings the sockets back on a new link, however long that takes.
func (s *sockets) restore() {
	defer s.ended.Done()
	s.mend.Lock()
	defer s.mend.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.ended.Go(func() { // what one socket waits for would add up
		select {
		case <-s.quit:
			cancel()
		case <-ctx.Done():
		}
	})
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		s.mu.Lock()
		var all []*bound
		for b := range s.bound {
			all = append(all, b)
		}
		s.mu.Unlock()
		missing := 0
		for _, b := range all {
			if b.healthy() {
				continue
			}
			if ctx.Err() != nil {
				return
			}
			if err := b.rebind(ctx); err != nil {
				s.v.log.Warn("socket not back yet", "path", string(b.made.Path), "err", err)
				missing++
			}
		}
		if missing == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// mendAll begins to bring the sockets back, unless the view is going.
func (s *sockets) mendAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.ended.Add(1)
	go s.restore()
}

// mendMissed has b brought back if its link was lost while b was none of those to
// bring back.
func (s *sockets) mendMissed(b *bound) {
	s.mu.Lock()
	there := s.bound[b]
	s.mu.Unlock()
	if there && !b.healthy() {
		s.mendAll()
	}
}

// healthy tells if the socket needs no new host socket.
func (b *bound) healthy() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over || b.unnamed || b.connecting > 0 {
		return true
	}
	select {
	case <-b.handle.Done():
		return false
	default:
		return true
	}
}

// moved notes that the socket's file has another name.
func (b *bound) moved(dir *node, base string) {
	if !b.v.hold(dir) {
		return
	}
	b.mu.Lock()
	old := b.dir
	select {
	case <-b.gone: // and with it what it held
		old = dir
	default:
		b.dir, b.base, b.unnamed = dir, base, false
	}
	b.mu.Unlock()
	b.v.drop(old, 1)
}

// lost notes that a name leads to the socket's file no more. A socket lives on
// without a name, which may be another's by the time that the link is lost.
func (b *bound) lost(dir *node, base string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dir == dir && b.base == base {
		b.unnamed = true
	}
}

// again is the request that makes the host's socket anew, under the name that
// its file has by now.
func (b *bound) again() (wire.Request, error) {
	b.mu.Lock()
	dir, base, now := b.dir, b.base, b.now
	b.mu.Unlock()
	path, err := b.v.hostPath(dir, base)
	req := b.made
	if now.mode != b.then.mode { // it is not to be open to others for a moment if it is closed by now
		req.Mode = now.mode & 0o777
	}
	if err == nil && !bytes.Equal(path, req.Path) {
		req.Path, req.Name = path, nil
	}
	return req, err
}

var errUnnamed = errno.Errorf(errno.ECANCELED, errno.LayerGuest, "the program closed its socket and removed its file")

// rebind makes the host's socket anew. A file that an agent left behind when it
// was killed is replaced, if it is the very one that was made for this socket.
func (b *bound) rebind(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	v := b.v
	if !b.turning.TryLock() {
		return errors.New("the program connects it")
	}
	defer b.turning.Unlock()
	if b.healthy() {
		return nil
	}
	req, err := b.again()
	if err != nil {
		return err
	}
	handle, _, err := v.opts.Host.Open(ctx, req)
	if errors.Is(err, errno.EADDRINUSE) {
		if !b.inPlace() {
			v.log.Warn("another file has the name of a socket that was lost", "path", string(req.Path))
			b.mu.Lock()
			b.over = true
			b.mu.Unlock()
			return nil
		}
		if err := b.removeStale(ctx, req.Path); err != nil {
			return err
		}
		handle, _, err = v.opts.Host.Open(ctx, req)
	}
	if err != nil {
		return err
	}
	b.takeFile()
	v.opts.Host.Route(handle, b.accepted)
	b.mu.Lock()
	b.handle = handle
	backlog, unnamed := b.backlog, b.unnamed
	b.mu.Unlock()
	select {
	case <-b.gone: // closed meanwhile
		if unnamed {
			handle.Reset(errUnnamed) // which takes the bind back
			return nil
		}
		return handle.Close()
	default:
	}
	if backlog > 0 {
		if err := b.listenHost(ctx, handle, backlog); err != nil {
			handle.Reset(err) // so that it isn't taken for one that is back
			return err
		}
	}
	v.log.Info("socket is back", "path", string(req.Path))
	return nil
}

// takeFile has the socket's node be the file that the agent made anew, which is given
// the owner and mode that the last one had. A file that was not made as that was is
// somebody else's, and keeps its owner.
func (b *bound) takeFile() {
	fd, st, err := b.newFile()
	if err != nil {
		return
	}
	b.mu.Lock()
	want := b.now
	b.mu.Unlock()
	if got := accessOf(&st); got != want && got.uid == b.first.uid && got.gid == b.first.gid {
		_ = unix.Fchownat(fd, "", int(want.uid), int(want.gid), unix.AT_EMPTY_PATH)
		_ = unix.Fchmodat(unix.AT_FDCWD, procFD(fd), want.mode, 0)
	}
	b.v.rekey(b.node, fd, &st)
}

// newFile opens the file that the agent made anew.
func (b *bound) newFile() (int, unix.Stat_t, error) {
	b.mu.Lock()
	dir, base := b.dir, b.base
	b.mu.Unlock()
	return openSocket(dir.fd, base)
}

// inPlace tells if the file that was made for the socket still has its name.
func (b *bound) inPlace() bool {
	b.mu.Lock()
	dir, base := b.dir, b.base
	b.mu.Unlock()
	var st unix.Stat_t
	if unix.Fstatat(dir.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return false
	}
	st.Mode = st.Mode&^unix.S_IFMT | unix.S_IFSOCK
	b.v.mu.Lock()
	defer b.v.mu.Unlock()
	return b.node.key == keyOf(&st)
}

// removeStale removes the socket's file if nobody listens on it.
func (b *bound) removeStale(ctx context.Context, path []byte) error {
	host := b.v.opts.Host
	s, _, err := host.Open(ctx, wire.Request{Kind: wire.KindConnect, Path: path, Nonblock: true, Caller: b.made.Caller})
	if err == nil {
		s.Reset(errno.Errorf(errno.ECONNABORTED, errno.LayerGuest, "only looking if somebody listens"))
		return errno.Errorf(errno.EADDRINUSE, errno.LayerGuest, "somebody else listens")
	}
	if !errors.Is(err, errno.ECONNREFUSED) {
		return err
	}
	s, _, err = host.Open(ctx, wire.Request{Kind: wire.KindUnlink, Path: path, Caller: b.made.Caller})
	if err == nil {
		return s.Close()
	}
	return err
}
