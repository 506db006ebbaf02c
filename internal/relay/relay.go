// Package relay joins a socket with a stream of the link, so that each end
// sees of the other what it would see of a peer on its own system.
//
// What cannot be carried: a peer that only stops reading (SHUT_RD) shows at
// the other end's second write and not at its first, because AF_UNIX tells it
// to a writer only.
package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"

	"drvsock/internal/errno"
	"drvsock/internal/link"
)

// A Conn is a connected socket. *net.UnixConn is one. These methods are used
// where it has them:
//
//	CloseRead() error                      elsewhere than Linux: the program's next write fails
//	SyscallConn() (syscall.RawConn, error) Linux, where it is needed: the descriptor is copied and the Conn closed
//	Abort()                                called before Close, or before CloseRead and
//	                                       Close, where the program shall see ECONNRESET
//	                                       at the Close and not the end; may take its time,
//	                                       which Join waits for and the link's other streams
//	                                       do not. A TCP connection needs none on Linux,
//	                                       where a copied descriptor is what Join closes
//	Plant() bool                           Linux: does what Abort does, by a byte in the
//	                                       socket's receive queue that Join can take out
//	                                       again; called before the socket is shut for
//	                                       reading, after which none gets in. Where it
//	                                       can't at once it says false
type Conn interface {
	net.Conn
	CloseWrite() error
}

// Join relays between conn and s, both ways, until both directions are over. It
// owns both and closes both. The error says why the connection did not end in
// an orderly way, for the log.
func Join(conn Conn, s *link.Stream) error { return join(conn, s, true) }

// join is Join; without passRights it does as on a kernel that lacks
// SO_PASSRIGHTS.
func join(conn Conn, s *link.Stream, passRights bool) error {
	j := &joint{conn: conn, s: s, over: make(chan struct{})}
	if err := j.sock.init(conn, s, passRights); err != nil {
		s.Reset(err)
		_ = conn.Close()
		return err
	}
	s.Deliver(j)
	j.pump()
	j.wait()
	return j.close()
}

// A joint is one connection. As the stream's sink it is the direction to the
// socket; the goroutine of Join is the other one.
type joint struct {
	conn Conn
	s    *link.Stream
	sock socket
	over chan struct{} // closed when the direction to the socket is over

	aborting sync.WaitGroup // what settle began

	mu       sync.Mutex // never held for long: the link's reader takes it
	isOver   bool
	pumped   bool         // the direction from the socket is over
	failed   error        // why the program shall see ECONNRESET
	aborted  bool         // conn was told so
	planted  bool         // and can be told the contrary
	lost     bool         // bytes for the program were dropped because it had closed
	stopped  *errno.Error // the far program reads no more
	halt     bool         // pump ended because the stream takes nothing
	stranded bool         // and had bytes of the program in hand
	closing  bool         // close has begun, settle begins nothing more
}

// pump carries bytes from the socket to the stream until one of them ends.
func (j *joint) pump() {
	for {
		n, err := j.s.Credit()
		if err != nil {
			j.halted(false)
			return
		}
		switch why := j.sock.carry(n); {
		case why.send != nil:
			j.halted(true)
			return
		case why.read != nil:
			j.ended(why.read)
			return
		}
	}
}

// halted handles the end of what the stream takes. stranded says that bytes
// were read off the socket and went nowhere.
func (j *joint) halted(stranded bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.halt = true
	j.stranded = stranded
	j.settle()
}

// settle tells the program that the far one reads no more, once that is known
// and pump has stopped reading. Called with mu.
func (j *joint) settle() {
	if !j.halt || j.stopped == nil || j.failed != nil || j.closing {
		return
	}
	if j.stranded || j.stopped.Errno == errno.ECONNRESET {
		// The kernel resets a connection whose peer closes with unread bytes,
		// and the far program did. Its own last bytes come first.
		j.failed = j.stopped
		if j.mustAbort() {
			j.aborting.Go(func() {
				j.abort()
				_ = j.sock.closeRead()
			})
			return
		}
	} else if p, ok := j.conn.(interface{ Plant() bool }); ok && !j.isOver {
		// What is to come for the program may yet be lost, and that be told.
		j.planted = p.Plant()
	}
	_ = j.sock.closeRead()
}

// mustAbort tells if the caller is to call abort, which nobody did. Called with mu.
func (j *joint) mustAbort() bool {
	first := !j.aborted
	j.aborted = true
	return first && !j.planted
}

// abort is called without mu, since Abort may have to look for the program.
func (j *joint) abort() {
	if a, ok := j.conn.(interface{ Abort() }); ok {
		a.Abort()
	}
	j.sock.abort()
}

// ended handles the end of what the program writes; err is io.EOF after an
// orderly one.
func (j *joint) ended(err error) {
	j.mu.Lock()
	failed, stopped, lost := j.failed, j.stopped, j.lost
	j.mu.Unlock()
	switch {
	case failed != nil:
		return
	case stopped != nil:
		j.halted(false)
		return
	case errors.Is(err, io.EOF):
	case systemError(err).Errno == errno.ECONNRESET:
		// It closed with unread bytes. The kernel says so after the last byte,
		// and so do we.
		lost = true
	default:
		j.s.Reset(systemError(err)) // comes back as Fail
		return
	}
	gone := lost || j.sock.hangup()
	if gone && !lost {
		lost = j.unread()
	}
	if gone {
		j.gone(lost)
	} else {
		_ = j.s.CloseWrite()
	}
}

// unread tells, of a program that has closed the socket, whether there were bytes
// for it that never got to be the socket's. Of those that did, the kernel tells.
func (j *joint) unread() bool {
	n := j.s.Unread() // a write that is under way ends, since the socket is closed
	j.mu.Lock()
	defer j.mu.Unlock()
	return n > 0 || j.lost
}

var (
	errUnread = errno.Errorf(errno.ECONNRESET, errno.LayerUnknown, "closed before it had read everything")
	errGone   = errno.Errorf(errno.EPIPE, errno.LayerUnknown, "closed by the program")
)

// gone ends what is left of both directions because the program has closed the
// socket.
func (j *joint) gone(lost bool) {
	if lost {
		_ = j.s.EndBoth(errUnread, errUnread)
	} else {
		_ = j.s.EndBoth(nil, errGone)
	}
	j.finish(nil)
}

// wait waits for the end of the direction to the socket.
func (j *joint) wait() {
	j.mu.Lock()
	j.pumped = true
	over := j.isOver
	if !over {
		j.sock.resume() // Stopped may have interrupted
	}
	j.mu.Unlock()
	if !over && j.sock.waitHangup(j.over) {
		j.gone(j.unread())
	}
	<-j.over
}

// close closes both.
func (j *joint) close() error {
	j.mu.Lock()
	j.closing = true
	err := j.failed
	abort := err != nil && j.mustAbort()
	if err == nil && j.planted {
		j.sock.unplant()
	}
	j.mu.Unlock()
	if abort {
		j.abort()
	}
	j.aborting.Wait()
	_ = j.s.Close()
	j.sock.close()
	return err
}

// finish marks the direction to the socket as over.
func (j *joint) finish(failed error) {
	j.mu.Lock()
	if j.failed == nil {
		j.failed = failed
	}
	first := !j.isOver
	j.isOver = true
	if first {
		close(j.over)
	}
	if failed != nil || j.pumped {
		j.sock.interrupt(true) // ends the waiting of pump, or of wait
	}
	j.mu.Unlock()
}

// TryWrite writes what the socket takes now.
func (j *joint) TryWrite(p []byte) (int, error) {
	n, err := j.sock.tryWrite(p)
	if err != nil {
		return n, j.unwritable(err)
	}
	return n, nil
}

// TrySplice writes what the socket takes now out of a pipe.
func (j *joint) TrySplice(pipe, n int) (int, error) {
	n, err := j.sock.trySplice(pipe, n)
	if err != nil {
		return n, j.unwritable(err)
	}
	return n, nil
}

// Write writes all of p.
func (j *joint) Write(p []byte) (int, error) {
	n, err := j.sock.write(p)
	if err != nil {
		return n, j.unwritable(err)
	}
	return n, nil
}

// unwritable handles a socket that takes no more, and gives the reason for the
// peer.
func (j *joint) unwritable(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
		return errno.ECONNRESET // Fail came before
	}
	reason := systemError(err)
	if j.sock.hangup() {
		j.mu.Lock()
		j.lost = true
		j.mu.Unlock()
		reason = errUnread
	}
	j.finish(nil)
	return reason
}

// CloseWrite passes on that the far program writes no more.
func (j *joint) CloseWrite() error {
	j.mu.Lock()
	aborted := j.aborted
	j.mu.Unlock()
	var err error
	if !aborted { // else Close says more than an end of stream
		err = j.sock.closeWrite()
	}
	j.finish(nil)
	return err
}

// Fail ends the connection in disorder.
func (j *joint) Fail(err error) { j.finish(err) }

// Stopped passes on that the far program reads no more: pump, which this
// wakes, does it when it has stopped reading itself.
func (j *joint) Stopped(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stopped = systemError(err)
	if j.halt {
		j.settle()
	} else if !j.pumped {
		j.sock.interrupt(false)
	}
}

func systemError(err error) *errno.Error { return errno.FromSystem(err, errno.LayerUnknown) }
