package link

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"drvsock/internal/wait"

	"golang.org/x/sys/unix"
)

// pipeSize is asked for each pipe. A fresh pipe has 16 pages, and a full frame
// with its header needs 17. Larger ones gave nothing in measurements, and all
// of a user's pipes share fs.pipe-user-pages-soft (pipe(7)).
const pipeSize = 256 << 10

// pipes is a transport of two descriptors. It waits in poll(2) on the calling
// thread and not in the runtime's poller: the link has one reader, and waking
// its thread takes fewer system calls and switches than waking the poller, a
// goroutine and a second thread to poll in its place (docs/performance.md).
type pipes struct {
	r, w           int
	splices, takes bool // w, r is a pipe, so that splice(2) works
	wake           int  // an eventfd that is readable once Close was called
	ep             int  // what Read waits for: r, wake and what was watched; -1 if epoll(7) doesn't take r

	// mu is held for reading while a descriptor is in use. Only TryRLock is
	// called, since such uses may nest; it fails only when Close waits.
	mu     sync.RWMutex
	closed bool

	ready atomic.Pointer[func(fd int32, events uint32) (woke bool)] // see Link.Watch

	// The rest is the reader's.
	chat    wait.Chat
	drained bool // the last Read got less than it asked for
	events  [16]unix.EpollEvent
}

func files(r, w *os.File) (io.ReadWriteCloser, error) {
	wait.Spare()
	p := &pipes{r: -1, w: -1, wake: -1, ep: -1}
	var err error
	p.r, p.takes, err = nonblock(r)
	var werr error
	p.w, p.splices, werr = nonblock(w)
	if err = errors.Join(err, werr); err == nil {
		p.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		err = os.NewSyscallError("eventfd", err)
	}
	if err != nil {
		p.close()
		return nil, err
	}
	p.ep = together(p.r, p.wake)
	return p, nil
}

// together returns an epoll descriptor that waits for input from fds, -1 where
// that is not to be had: a regular file has none.
func together(fds ...int) int {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return -1
	}
	for _, fd := range fds {
		if unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}) != nil {
			_ = unix.Close(ep)
			return -1
		}
	}
	return ep
}

// nonblock makes a non-blocking copy of f, which it closes.
func nonblock(f *os.File) (fd int, pipe bool, err error) {
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, false, fmt.Errorf("raw access to %s: %w", f.Name(), err)
	}
	fd = -1
	if cerr := raw.Control(func(s uintptr) {
		if fd = reopen(int(s)); fd < 0 {
			fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 3)
		}
	}); cerr != nil {
		err = cerr
	}
	if err == nil {
		if err = unix.SetNonblock(fd, true); err != nil {
			_ = unix.Close(fd)
		}
	}
	if err != nil {
		return -1, false, fmt.Errorf("non-blocking copy of %s: %w", f.Name(), err)
	}
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, pipeSize) // not a pipe, or the user's share is used up
	var st unix.Stat_t
	return fd, unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO, nil
}

// reopen opens an anonymous pipe once more, -1 where that is not to be had: it
// belongs to another user, or nobody reads it. O_NONBLOCK belongs to the open
// file, which a copy shares with whoever started this process and with its other
// children. Any of them may clear it, and then calls that keep their P would
// block; or be surprised that it is set. A FIFO with a name is not opened: poll(2)
// tells a new reader nothing of a writer that has left.
func reopen(fd int) int {
	const pipefs = 0x50495045 // PIPEFS_MAGIC, linux/magic.h
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) != nil || uint32(st.Type) != pipefs {
		return -1
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return -1
	}
	again, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), flags&unix.O_ACCMODE|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil || again >= 3 {
		return again // -1 with an error
	}
	defer unix.Close(again) // one of the standard numbers was free
	if again, err = unix.FcntlInt(uintptr(again), unix.F_DUPFD_CLOEXEC, 3); err != nil {
		return -1
	}
	return again
}

// enter begins a use of the descriptors, which leave ends.
func (p *pipes) enter() error {
	if !p.mu.TryRLock() {
		return os.ErrClosed
	}
	if p.closed {
		p.mu.RUnlock()
		return os.ErrClosed
	}
	return nil
}

func (p *pipes) leave() { p.mu.RUnlock() }

// wait waits until fd is ready, or Close was called.
func (p *pipes) wait(fd int, events int16) error {
	fds := [2]unix.PollFd{{Fd: int32(fd), Events: events}, {Fd: int32(p.wake), Events: unix.POLLIN}}
	if err := wait.Poll(fds[:]); err != nil {
		return os.NewSyscallError("ppoll", err)
	}
	if fds[1].Revents != 0 {
		return os.ErrClosed
	}
	return nil
}

// Read reads what there is. Only one goroutine may.
func (p *pipes) Read(b []byte) (int, error) {
	if err := p.enter(); err != nil {
		return 0, err
	}
	defer p.leave()
	for {
		if p.drained {
			if err := p.waitRead(); err != nil {
				return 0, err
			}
		}
		n, err := wait.Read(p.r, b)
		switch {
		case n > 0:
			p.drained = n < len(b)
			return n, nil
		case err == unix.EAGAIN:
			p.drained = true
		case err == unix.EINTR:
		case err == nil && len(b) > 0:
			return 0, io.EOF
		default:
			return 0, os.NewSyscallError("read", err)
		}
	}
}

// waitRead waits for input and has what was watched served meanwhile.
func (p *pipes) waitRead() error {
	if p.ep < 0 {
		return p.wait(p.r, unix.POLLIN)
	}
	for {
		n, err := p.chat.Epoll(p.ep, p.events[:])
		if err != nil {
			return os.NewSyscallError("epoll_wait", err)
		}
		if input, err := p.serve(n); input || err != nil {
			return err
		}
	}
}

// serve has what is ready of the first n events served. input says that r is.
func (p *pipes) serve(n int) (input bool, err error) {
	woke := false
	for _, ev := range p.events[:n] {
		switch ready := p.ready.Load(); {
		case int(ev.Fd) == p.r:
			input = true
		case int(ev.Fd) == p.wake:
			return false, os.ErrClosed
		case ready != nil && (*ready)(ev.Fd, ev.Events):
			woke = true
		}
	}
	if woke {
		runtime.Gosched() // see the reader's run
	}
	return input, nil
}

// serveNow serves what is ready now, for a reader that has no time to wait.
func (p *pipes) serveNow() {
	if p.ep < 0 || p.ready.Load() == nil || p.enter() != nil {
		return
	}
	defer p.leave()
	if n, err := unix.EpollWait(p.ep, p.events[:], 0); err == nil {
		_, _ = p.serve(n) // Read finds out by itself
	}
}

// pause says that what was read was no word of a conversation.
func (p *pipes) pause() { p.chat.Pause() }

// watch has the reader call ready for what control adds.
func (p *pipes) watch(ready func(fd int32, events uint32) (woke bool)) bool {
	p.ready.Store(&ready)
	return p.ep >= 0
}

// control is epoll_ctl(2) on what the reader waits for.
func (p *pipes) control(op, fd int, events uint32) error {
	if err := p.enter(); err != nil {
		return err
	}
	defer p.leave()
	return unix.EpollCtl(p.ep, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

// Write writes all of b.
func (p *pipes) Write(b []byte) (int, error) {
	if err := p.enter(); err != nil {
		return 0, err
	}
	defer p.leave()
	return p.write(b)
}

func (p *pipes) write(b []byte) (done int, err error) {
	for done < len(b) {
		n, err := wait.Write(p.w, b[done:])
		if n > 0 {
			done += n
		}
		if err := p.unwritten(err); err != nil {
			return done, err
		}
	}
	return done, nil
}

// unwritten waits if err says that there is no room.
func (p *pipes) unwritten(err error) error {
	switch err {
	case nil, unix.EINTR:
		return nil
	case unix.EAGAIN:
		return p.wait(p.w, unix.POLLOUT)
	}
	return os.NewSyscallError("write", err)
}

// TryWrite writes what fits into the pipe now.
func (p *pipes) TryWrite(b []byte) (int, error) {
	if err := p.enter(); err != nil {
		return 0, err
	}
	defer p.leave()
	n, err := wait.Write(p.w, b)
	switch err {
	case nil, unix.EAGAIN, unix.EINTR:
		return max(n, 0), nil
	}
	return 0, os.NewSyscallError("write", err)
}

// canSplice tells whether writeFrom works.
func (p *pipes) canSplice() bool { return p.splices }

// writeFrom writes head and then n bytes that the pipe from holds.
func (p *pipes) writeFrom(head []byte, from, n int) error {
	if err := p.enter(); err != nil {
		return err
	}
	defer p.leave()
	if _, err := p.write(head); err != nil {
		return err
	}
	for n > 0 {
		m, err := wait.Splice(from, p.w, n)
		if m == 0 && err == nil {
			return io.ErrUnexpectedEOF
		}
		n -= m
		if err := p.unwritten(err); err != nil {
			return err
		}
	}
	return nil
}

// held tells how many bytes a pipe holds.
func (p *pipes) held(pipe int) int {
	n, err := unix.IoctlGetInt(pipe, unix.TIOCINQ) // FIONREAD, pipe(7)
	if err != nil {
		return 0
	}
	return n
}

// moments is how often tryWriteFrom waits a moment for room. A peer that reads makes
// some within microseconds.
const moments = 2

// tryWriteFrom writes head and n bytes that the pipe from holds, as far as there is
// room now or in a moment. begun is false if there was none for head, and nothing
// was done. left is a copy of what had no room.
func (p *pipes) tryWriteFrom(head []byte, from, n int) (begun bool, left []byte, err error) {
	if err := p.enter(); err != nil {
		return false, nil, err
	}
	defer p.leave()
	waits := 0
	room := func() bool {
		waits++
		return waits <= moments && wait.Moment([]unix.PollFd{{Fd: int32(p.w), Events: unix.POLLOUT}})
	}
	// As short as it is, it goes whole or not at all (PIPE_BUF, pipe(7)).
	for {
		m, err := wait.Write(p.w, head)
		switch {
		case m == len(head):
		case err == unix.EINTR || err == unix.EAGAIN && room():
			continue
		case err == unix.EAGAIN:
			return false, nil, nil
		case err == nil:
			return false, nil, io.ErrShortWrite
		default:
			return false, nil, os.NewSyscallError("write", err)
		}
		break
	}
	for n > 0 {
		m, err := wait.Splice(from, p.w, n)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN && room():
		case err == unix.EAGAIN:
			left = make([]byte, n)
			_, err := io.ReadFull(rawReader(from), left)
			return true, left, err
		case err != nil:
			return true, nil, os.NewSyscallError("splice", err)
		case m == 0:
			return true, nil, io.ErrUnexpectedEOF
		default:
			n -= m
		}
	}
	return true, nil, nil
}

// A rawReader reads a descriptor that has what is asked for.
type rawReader int

func (fd rawReader) Read(b []byte) (int, error) {
	for {
		n, err := wait.Read(int(fd), b)
		switch {
		case err == unix.EINTR:
		case n == 0 && err == nil:
			return 0, io.EOF
		default:
			return max(n, 0), os.NewSyscallError("read", err)
		}
	}
}

// drainTo has take move up to n bytes out of the pipe, waiting until it holds
// some. It returns 0 if take does not want any, or if Read has an error to
// tell. Its error is take's.
func (p *pipes) drainTo(take func(pipe, n int) (int, error), n int) (int, error) {
	if !p.takes || p.enter() != nil {
		return 0, nil
	}
	defer p.leave()
	for waited := false; ; waited = true {
		m, err := take(p.r, n)
		if m > 0 || err != nil || waited {
			return m, err
		}
		if err := p.wait(p.r, unix.POLLIN); err != nil {
			return 0, nil // Read says it again
		}
	}
}

// Close closes both and ends what waits for them.
func (p *pipes) Close() error {
	if err := p.enter(); err != nil {
		return err
	}
	one := [8]byte{1} // of any byte order: not zero
	_, _ = unix.Write(p.wake, one[:])
	p.leave()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return os.ErrClosed
	}
	p.closed = true
	p.close()
	return nil
}

func (p *pipes) close() {
	for _, fd := range []int{p.r, p.w, p.wake, p.ep} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
