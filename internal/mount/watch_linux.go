package mount

import (
	"context"
	"errors"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/link"
	"drvsock/internal/wire"
)

// The watch looks at the sockets that programs bound: often while one may be
// about to listen, seldom while nothing happens.
const (
	shortPause = 100 * time.Microsecond
	longPause  = 50 * time.Millisecond
	// perLook is how many times its own length the watch rests after each look.
	perLook = 3
	// leaveWait bounds how long the agent may take to close a socket.
	leaveWait = time.Second
	// bareFor is how long a socket may not be seen after its file was made.
	bareFor = 5 * time.Second
	// dumpFrom is the number of sockets from which on one look at all of the
	// system's is cheaper than one at each.
	dumpFrom = 6
)

// sockets are those that programs bound and live, and our listeners.
type sockets struct {
	v      *view
	vfsDev uint32 // of the view, as sock_diag has it
	wake   chan struct{}
	quit   chan struct{}
	ended  sync.WaitGroup
	mend   sync.Mutex // held while sockets are made anew

	mu    sync.Mutex
	bound map[*bound]bool
	mets  map[*met]bool
	diags map[string]*diag // by network namespace
	over  bool
}

func newSockets(v *view) *sockets {
	return &sockets{
		v: v, wake: make(chan struct{}, 1), quit: make(chan struct{}),
		bound: map[*bound]bool{}, mets: map[*met]bool{}, diags: map[string]*diag{},
	}
}

func (s *sockets) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over { // unmounted at once
		s.ended.Go(s.run)
	}
}

// diagOf returns what to ask about the sockets of thread tid.
func (s *sockets) diagOf(tid int) (*diag, error) {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return nil, err
	}
	ns, err := os.Readlink("/proc/" + strconv.Itoa(tid) + "/ns/net")
	if err != nil || ns == own {
		ns, tid = own, 0
	}
	s.mu.Lock()
	d := s.diags[ns]
	s.mu.Unlock()
	if d != nil {
		return d, nil
	}
	if d, err = newDiag(tid); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		d.close()
		return nil, unix.ENOTCONN
	}
	if old := s.diags[ns]; old != nil {
		d.close()
		return old, nil
	}
	s.diags[ns] = d
	return d, nil
}

// add has a socket watched, unless the view is going.
func (s *sockets) add(b *bound) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return false
	}
	s.bound[b] = true
	s.poke()
	return true
}

// of finds the live socket with this inode, or nil. If it was bound more than once,
// the first is what it is bound to.
func (s *sockets) of(inode uint32) (first *bound) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for b := range s.bound {
		if b.number.Load() == inode && (first == nil || b.since.Before(first.since)) {
			first = b
		}
	}
	return first
}

// watchMet has a listener be one of ours, unless the view is going.
func (s *sockets) watchMet(m *met) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.mets[m] = true
	}
	return !s.over
}

// endMet takes a listener away, unless somebody is to come by it whom the host has
// let in.
func (s *sockets) endMet(m *met) bool {
	m.node.mu.Lock()
	defer m.node.mu.Unlock()
	if !m.stop(false) {
		return false
	}
	if m.node.host == m {
		m.node.host = nil
	}
	s.mu.Lock()
	delete(s.mets, m)
	s.mu.Unlock()
	return true
}

func (s *sockets) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run is the watch.
func (s *sockets) run() {
	idle := time.NewTicker(idleAfter / 4)
	defer idle.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	pause := longPause
	for {
		select {
		case <-s.quit:
			return
		case <-s.wake:
			pause = shortPause
		case <-timer.C:
		case now := <-idle.C:
			s.sweepMets(now)
		}
		start := time.Now()
		some := s.look()
		if !some {
			timer.Reset(time.Hour)
			continue
		}
		timer.Reset(max(pause, perLook*time.Since(start)))
		pause = min(pause+pause/4, longPause)
	}
}

func (s *sockets) sweepMets(now time.Time) {
	s.mu.Lock()
	var all []*met
	for m := range s.mets {
		all = append(all, m)
	}
	s.mu.Unlock()
	for _, m := range all {
		if m.idle(now) {
			s.mu.Lock()
			delete(s.mets, m)
			s.mu.Unlock()
		}
	}
}

// look finds out what became of each socket; it tells if there are any.
func (s *sockets) look() bool {
	s.mu.Lock()
	by := map[*diag][]*bound{}
	for b := range s.bound {
		by[b.diag] = append(by[b.diag], b)
	}
	s.mu.Unlock()
	for d, list := range by {
		if d == nil {
			continue // and they are over with the view
		}
		byInode, byFile := map[uint32]*bound{}, map[uint32]*bound{}
		for _, b := range list {
			if b.inode != 0 {
				byInode[b.inode] = b
			} else {
				byFile[uint32(b.node.ino)] = b
			}
		}
		seenNow := map[*bound]bool{}
		if len(byFile) > 0 || len(list) >= dumpFrom {
			err := d.all(func(e *seen) {
				b := byInode[e.inode]
				if b == nil && e.vfsDev == s.vfsDev {
					b = byFile[e.vfsInode]
				}
				if b != nil && b.is(e) {
					seenNow[b] = true
					b.state(e)
				}
			})
			if err != nil {
				s.v.log.Debug("sock_diag", "err", err)
				continue
			}
		}
		for _, b := range list {
			if !seenNow[b] {
				s.single(d, b)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.bound) > 0
}

// single asks for one socket: those that a look at all didn't show too, since
// the kernel may leave some out where others come and go.
func (s *sockets) single(d *diag, b *bound) {
	if b.inode == 0 {
		if time.Since(b.since) > bareFor { // bind failed after MKNOD
			s.remove(b)
		}
		return
	}
	cookie := b.cookie
	if !b.found {
		cookie = anyCookie
	}
	e, err := d.one(b.inode, cookie)
	switch {
	case err == nil:
		if b.is(&e) {
			b.state(&e)
		} else if b.found || e.vfsInode != 0 || time.Since(b.since) > bareFor { // or it was bound before
			s.remove(b)
		}
	case errors.Is(err, unix.ENOENT):
		s.remove(b)
	default:
		s.v.log.Debug("sock_diag", "err", err)
	}
}

// is tells if e is b's socket, bound to b's file.
func (b *bound) is(e *seen) bool {
	if b.found {
		return e.inode == b.inode && e.cookie == b.cookie
	}
	return e.vfsDev == b.v.sockets.vfsDev && e.vfsInode == uint32(b.node.ino)
}

// state takes in what the kernel says of the socket.
func (b *bound) state(e *seen) {
	b.found, b.inode, b.cookie = true, e.inode, e.cookie
	b.number.Store(e.inode)
	if e.listens {
		b.nowListens(max(e.backlog, 1))
	}
}

// nowListens has the host's socket listen too, with the program's backlog.
func (b *bound) nowListens(backlog uint32) {
	b.mu.Lock()
	same := b.listens && b.backlog == backlog
	b.listens, b.backlog = true, backlog
	handle := b.handle
	b.mu.Unlock()
	if same {
		return
	}
	b.v.sockets.ended.Add(1)
	go func() {
		defer b.v.sockets.ended.Done()
		ctx, cancel := context.WithTimeout(context.Background(), bindFor)
		defer cancel()
		err := b.listenHost(ctx, handle, backlog)
		select {
		case <-handle.Link().Done(): // which is restore's business
		case <-b.gone:
		default:
			if err != nil {
				b.v.log.Warn("the host's socket does not listen", "path", string(b.made.Path), "err", err)
				return
			}
			b.v.log.Debug("listening", "path", string(b.made.Path))
		}
	}()
}

// listenHost has the host's socket listen, or changes its backlog.
func (b *bound) listenHost(ctx context.Context, handle *link.Stream, backlog uint32) error {
	req := wire.Request{Kind: wire.KindListen, From: handle.ID(), Backlog: backlog, Caller: b.made.Caller}
	s, _, err := handle.Link().Open(ctx, req)
	if err != nil {
		return err
	}
	return s.Close()
}

// remove ends the host's half of a socket that the program closed. The file
// stays, as it does on one machine.
func (s *sockets) remove(b *bound) {
	s.mu.Lock()
	there := s.bound[b]
	delete(s.bound, b)
	s.mu.Unlock()
	if !there {
		return
	}
	close(b.gone)
	s.ended.Add(1)
	go func() {
		defer s.ended.Done()
		b.gate.Close()
		b.mu.Lock()
		handle, dir := b.handle, b.dir
		b.mu.Unlock()
		_ = handle.CloseWrite() // the agent ends it too; Close would have its link do so at once
		s.v.drop(b.node, 1)
		s.v.drop(dir, 1)
		s.v.log.Debug("closed", "path", string(b.made.Path))
		// If the link ended before the agent has closed the socket, that would count
		// as lost with it, and its file be removed.
		t := time.NewTimer(leaveWait)
		defer t.Stop()
		select {
		case <-handle.Done():
		case <-t.C:
		}
		_ = handle.Close()
	}()
}

// close lets go of all sockets.
func (s *sockets) close() {
	s.mu.Lock()
	over := s.over
	s.over = true
	var all []*bound
	for b := range s.bound {
		all = append(all, b)
	}
	mets := s.mets
	s.mets = map[*met]bool{}
	s.mu.Unlock()
	if over {
		return
	}
	close(s.quit)
	for _, b := range all {
		s.remove(b)
	}
	for m := range mets {
		m.node.mu.Lock()
		m.stop(true)
		m.node.host = nil
		m.node.mu.Unlock()
	}
	s.ended.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.diags {
		d.close()
	}
}
