package link

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// pipeSize is asked for each pipe. A fresh pipe has 16 pages, and a full frame
// with its header needs 17. Larger ones gave nothing in measurements, and all
// of a user's pipes share fs.pipe-user-pages-soft (pipe(7)).
const pipeSize = 256 << 10

type nonblocking struct {
	pair
	raw syscall.RawConn // of w
}

func files(r, w *os.File) (io.ReadWriteCloser, error) {
	nr, err := nonblock(r)
	if err != nil {
		_ = w.Close()
		return nil, err
	}
	nw, err := nonblock(w)
	if err != nil {
		_ = nr.Close()
		return nil, err
	}
	raw, err := nw.SyscallConn()
	if err != nil {
		_ = nr.Close()
		_ = nw.Close()
		return nil, fmt.Errorf("raw access to %s: %w", w.Name(), err)
	}
	return &nonblocking{pair: pair{nr, nw}, raw: raw}, nil
}

// nonblock replaces f, which it closes, by a file that the runtime polls.
// os.Stdin and its like are not polled, see os.NewFile.
func nonblock(f *os.File) (*os.File, error) {
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("raw access to %s: %w", f.Name(), err)
	}
	fd := -1
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
		return nil, fmt.Errorf("non-blocking copy of %s: %w", f.Name(), err)
	}
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, pipeSize) // not a pipe, or the user's share is used up
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// TryWrite writes what fits into the pipe now.
func (p *nonblocking) TryWrite(b []byte) (n int, err error) {
	cerr := p.raw.Write(func(fd uintptr) bool {
		n, err = unix.Write(int(fd), b)
		return true
	})
	n = max(n, 0)
	switch {
	case cerr != nil:
		return n, cerr
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return n, nil
	}
	return n, err
}
