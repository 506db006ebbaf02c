package mount

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/wire"
)

const (
	// offerFor is how long a connection of the host waits for the program that
	// asked for it: its connect is on the way, unless it was interrupted.
	offerFor = 5 * time.Second
	// holdFor is how long the lookup of a connect waits for the host. The kernel may
	// hold the lock of the folder meanwhile, without which nobody can list it or make
	// a file in it.
	holdFor = 2 * time.Second
)

// An offer is a connection that the agent was asked for on behalf of a program
// whose connect is to follow.
type offer struct {
	tid    int
	ino    uint64 // of the program's socket, 0 if unknown
	timer  *time.Timer
	own    *bound             // the program's socket, if the host knows it
	prompt bool               // the socket doesn't block, so that no signal interrupts its connect
	cancel context.CancelFunc // of the question

	asked  chan struct{} // closed when there is an answer, the next two
	stream *link.Stream
	err    error
}

// ask asks the agent for a connection of the program's socket ino. own is that
// socket, if the host knows it.
func (v *view) ask(tid int, ino uint64, req wire.Request, own *bound) *offer {
	ctx, cancel := context.WithCancel(context.Background())
	o := &offer{tid: tid, ino: ino, own: own, cancel: cancel, asked: make(chan struct{})}
	go func() {
		defer close(o.asked)
		defer cancel()
		open := v.opts.Host.Open
		if own != nil {
			ctx, cancel := context.WithTimeout(ctx, bindFor)
			defer cancel()
			var handle *link.Stream
			if handle, o.err = own.connects(ctx); handle != nil {
				req.From = handle.ID()
				open = handle.Link().Open
			}
		}
		if o.err == nil {
			o.stream, _, o.err = open(ctx, req)
		}
		if o.err != nil && own != nil {
			own.stays()
		}
	}()
	return o
}

var errInterrupted = errors.New("interrupted")

// wait waits for the answer, and tells if there is one already that is no error.
// A caller who is interrupted, which is told by the kernel's INTERRUPT, is not
// waited for much longer: then the offer is dropped, as it is with an error. But a
// program whose socket doesn't block knows no EINTR of connect(2), and may wait for
// ever then, as those of Go do for a connection that goes on being made. Its offer stands.
func (o *offer) wait(interrupt <-chan struct{}) (answered bool, err error) {
	enough := time.NewTimer(holdFor)
	defer enough.Stop()
	var over <-chan time.Time
	for {
		select {
		case <-o.asked:
			return true, o.err
		case <-enough.C:
			return false, nil
		case <-interrupt:
			interrupt, over = nil, time.After(patience)
		case <-over:
			if o.prompt {
				return false, nil
			}
			o.drop("the program was interrupted")
			return false, errInterrupted
		}
	}
}

// drop ends an offer that nobody takes.
func (o *offer) drop(why string) {
	o.cancel()
	go func() {
		<-o.asked
		if o.stream == nil {
			return
		}
		o.stream.Reset(errno.Errorf(errno.ECONNABORTED, errno.LayerGuest, "%s", why))
		if o.own != nil {
			o.own.stays()
		}
	}()
}

// meet waits for the answer on behalf of c, the program's connection. A program
// that goes without having said anything is not waited for.
func (o *offer) meet(c *net.UnixConn) (*link.Stream, error) {
	select {
	case <-o.asked:
	default:
		var watched sync.WaitGroup
		watched.Go(func() {
			if hungUp(c) {
				o.cancel()
			}
		})
		<-o.asked
		_ = c.SetReadDeadline(time.Unix(1, 0)) // which ends hungUp
		watched.Wait()
		_ = c.SetReadDeadline(time.Time{})
	}
	return o.stream, o.err
}

// hungUp waits until c's program has said something, in which case it may go, or has
// gone.
func hungUp(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	left := false
	_ = raw.Read(func(fd uintptr) bool {
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if err == unix.EAGAIN || err == unix.EINTR {
			return false
		}
		p := []unix.PollFd{{Fd: int32(fd)}}
		_, perr := unix.Poll(p, 0)
		left = n <= 0 && perr == nil && p[0].Revents&unix.POLLHUP != 0
		return true
	})
	return left
}

// offered tells if thread tid has been made an offer already for its socket ino. Its
// offer for another socket is of an earlier call, for a connection that we have not
// accepted yet.
func (m *met) offered(pid, tid int, ino uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.offers[pid] {
		if o.tid == tid && o.ino == ino {
			return true
		}
	}
	return false
}

// offer keeps o for the connection of process pid that is to come, unless the
// listener is closed.
func (m *met) offer(pid int, o *offer) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	o.timer = time.AfterFunc(offerFor, func() {
		if m.withdraw(pid, o) {
			o.drop("the program did not connect")
		}
	})
	m.offers[pid] = append(m.offers[pid], o)
	return true
}

// withdraw takes o out, unless somebody has.
func (m *met) withdraw(pid int, o *offer) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, p := range m.offers[pid] {
		if p == o {
			m.offers[pid] = append(m.offers[pid][:i:i], m.offers[pid][i+1:]...)
			if len(m.offers[pid]) == 0 {
				delete(m.offers, pid)
			}
			o.timer.Stop()
			return true
		}
	}
	return false
}

// take returns the offer for the connection e, or nil. Of several to its process it
// is the one that was made for the program's socket, as threads connect in another
// order than they have asked in, and an offer outlives a call that failed.
func (m *met) take(e *end) *offer {
	m.mu.Lock()
	list := m.offers[e.pid]
	m.mu.Unlock()
	if len(list) > 1 {
		if peer, err := e.peer(); err == nil && peer != 0 {
			if i := slices.IndexFunc(list, func(o *offer) bool { return uint32(o.ino) == peer }); i > 0 {
				list = append(list[i:i+1:i+1], list...)
			}
		}
	}
	for _, o := range list {
		if m.withdraw(e.pid, o) {
			return o
		}
	}
	return nil
}
