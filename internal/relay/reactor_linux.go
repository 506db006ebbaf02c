package relay

import (
	"os"
	"runtime"
	"sync"

	"drvsock/internal/link"
	"drvsock/internal/wait"

	"golang.org/x/sys/unix"
)

// A reactor moves bytes from all sockets of one link to it, on one thread that
// waits in epoll_wait(2). The runtime's own poller would wake a goroutine per
// message, read once more to see that nothing is left, and pass the polling on
// to another thread (docs/performance.md). The thread waits for nothing but the sockets and room
// on the link, which all of its sockets need anyway; whatever else may take
// time is left to the goroutine of the connection.
//
// Sockets on which small messages are answered are near: the link's reader
// waits for them instead, as long as it has time (link.Watch), so that a
// conversation runs on one thread of each process.
type reactor struct {
	ep, wake int
	near     bool // the link's reader serves sockets too

	mu      sync.Mutex
	sockets map[int32]*socket
	over    bool // the link has ended
	stopped bool

	// The rest is the thread's.
	between pipe
	bulk    int // moves since a small message
	events  [64]unix.EpollEvent
}

// A pipe is a private one, through which bytes are spliced.
type pipe struct {
	r, w int
	size int // 0 before it was made
}

var reactors = struct {
	mu sync.Mutex
	of map[*link.Link]*reactor
}{of: map[*link.Link]*reactor{}}

// enterReactor adds s to the reactor of its link, which is made for the first.
func enterReactor(l *link.Link, s *socket) (*reactor, error) {
	reactors.mu.Lock()
	defer reactors.mu.Unlock()
	r := reactors.of[l]
	if r == nil {
		var err error
		if r, err = newReactor(); err != nil {
			return nil, err
		}
		reactors.of[l] = r
		r.near = l.Watch(r.nearReady)
		go r.run()
		go func() {
			<-l.Done()
			r.mu.Lock()
			r.over = true
			r.mu.Unlock()
			r.stopIfIdle(l)
		}()
	}
	r.mu.Lock()
	r.sockets[int32(s.fd)] = s
	r.mu.Unlock()
	return r, nil
}

// leave takes s out; its descriptor is still open.
func (r *reactor) leave(l *link.Link, fd int) {
	r.mu.Lock()
	delete(r.sockets, int32(fd))
	over := r.over
	r.mu.Unlock()
	if over {
		r.stopIfIdle(l)
	}
}

// stopIfIdle ends the thread once the link and its last socket are gone.
func (r *reactor) stopIfIdle(l *link.Link) {
	reactors.mu.Lock() // nobody enters meanwhile
	defer reactors.mu.Unlock()
	r.mu.Lock()
	stop := r.over && len(r.sockets) == 0 && !r.stopped
	r.stopped = r.stopped || stop
	r.mu.Unlock()
	if stop {
		delete(reactors.of, l)
		one := [8]byte{1}
		_, _ = unix.Write(r.wake, one[:]) // the counter is far from full
	}
}

func newReactor() (*reactor, error) {
	r := &reactor{sockets: map[int32]*socket{}}
	var err error
	if r.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if r.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(r.ep)
		return nil, os.NewSyscallError("eventfd", err)
	}
	if err := unix.EpollCtl(r.ep, unix.EPOLL_CTL_ADD, r.wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(r.wake)}); err != nil {
		_, _ = unix.Close(r.ep), unix.Close(r.wake)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	wait.Spare()
	return r, nil
}

func (r *reactor) run() {
	defer func() {
		_ = unix.Close(r.ep)
		_ = unix.Close(r.wake)
		r.between.close()
	}()
	for {
		n, err := wait.Epoll(r.ep, r.events[:])
		if err != nil {
			return // not with a valid descriptor
		}
		woke := false
		for i := range n {
			ev := &r.events[i]
			if int(ev.Fd) == r.wake {
				return
			}
			if r.ready(ev.Fd, ev.Events, false) {
				woke = true
			}
		}
		if woke {
			runtime.Gosched() // see package link's reader
		}
	}
}

// ready serves a socket.
func (r *reactor) ready(fd int32, events uint32, near bool) (woke bool) {
	r.mu.Lock()
	s := r.sockets[fd]
	r.mu.Unlock()
	// It may have left since, or be another one with the same number, which
	// then finds nothing to do.
	return s != nil && s.ready(events, near)
}

// moved counts a move of the reactor's thread.
func (r *reactor) moved(large bool) {
	if r.bulk++; !large {
		r.bulk = 0
	}
}

// nearReady is ready for the link's reader.
func (r *reactor) nearReady(fd int32, events uint32) (woke bool) { return r.ready(fd, events, true) }

// pipe returns the private pipe, or one of size 0 if there is none to be had.
func (r *reactor) pipe() *pipe {
	if r.between.size == 0 {
		var fds [2]int
		if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
			return &r.between
		}
		r.between = pipe{r: fds[0], w: fds[1], size: 64 << 10}
		// So that frames whose pages are not full have room.
		if n, err := unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, 256<<10); err == nil {
			r.between.size = n
		}
	}
	return &r.between
}

func (p *pipe) close() {
	if p.size > 0 {
		_ = unix.Close(p.r)
		_ = unix.Close(p.w)
		*p = pipe{}
	}
}
