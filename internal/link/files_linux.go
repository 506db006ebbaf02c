package link

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

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

	// mu is held for reading while a descriptor is in use.
	mu     sync.RWMutex
	closed bool

	drained bool // the last Read got less than it asked for; the reader's
}

func files(r, w *os.File) (io.ReadWriteCloser, error) {
	wait.Spare()
	p := &pipes{r: -1, w: -1, wake: -1}
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
	return p, nil
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
		fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 3)
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

// enter begins a use of the descriptors, which leave ends.
func (p *pipes) enter() error {
	p.mu.RLock()
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
			if err := p.wait(p.r, unix.POLLIN); err != nil {
				return 0, err
			}
		}
		n, err := unix.Read(p.r, b)
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
		n, err := unix.Write(p.w, b[done:])
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
	n, err := unix.Write(p.w, b)
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
		m, err := unix.Splice(from, nil, p.w, nil, n, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if m == 0 && err == nil {
			return io.ErrUnexpectedEOF
		}
		n -= int(max(m, 0))
		if err := p.unwritten(err); err != nil {
			return err
		}
	}
	return nil
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
	for _, fd := range []int{p.r, p.w, p.wake} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
