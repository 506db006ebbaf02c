package socket

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"

	"drvsock/internal/errno"
)

const pipePrefix = `\\.\pipe\`

// checkPipe refuses names that Win32 would take for another object: it resolves
// dots in a path of the namespace \\.\ as in any other.
func checkPipe(path string) error {
	if len(path) <= len(pipePrefix) || !strings.EqualFold(path[:len(pipePrefix)], pipePrefix) {
		return refuse(errno.EINVAL, `%q is no pipe of this machine, \\.\pipe\NAME`, path)
	}
	for part := range strings.SplitSeq(path[len(pipePrefix):], `\`) {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "/\x00") {
			return refuse(errno.EINVAL, "%q is no name of a pipe", path)
		}
	}
	return nil
}

// dialPipe connects so that the server can't act in this account's name
// (SECURITY_ANONYMOUS), whoever it may be.
func dialPipe(ctx context.Context, path string) (Conn, error) {
	if err := checkPipe(path); err != nil {
		return nil, err
	}
	c, err := winio.DialPipeAccessImpLevel(ctx, path, windows.GENERIC_READ|windows.GENERIC_WRITE, winio.PipeImpLevelAnonymous)
	switch {
	case err == nil:
	case ctx.Err() == nil:
		return nil, err
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return nil, refuse(errno.EAGAIN, "all instances of %s are in use", path)
	default:
		return nil, context.Cause(ctx)
	}
	file, ok := c.(pipeFile)
	if !ok {
		_ = c.Close()
		return nil, refuse(errno.EIO, "%s: no handle", path)
	}
	_, message := c.(Conn)
	return &pipeConn{file: file, path: path, message: message}, nil
}

// A pipeFile is a pipe's end as go-winio has it.
type pipeFile interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
	Fd() uintptr
}

// pipeConn is one end of a pipe. A pipe of messages carries them as bytes, cut
// wherever; an empty one says that the sender writes no more, as for go-winio,
// Docker and npiperelay -s.
type pipeConn struct {
	file    pipeFile
	path    string
	message bool

	once sync.Once

	mu     sync.Mutex
	closed bool
	cut    bool           // CloseWrite was called
	own    windows.Handle // of sendEnd while it runs
	ended  bool           // Read has seen the end
}

type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }

func (c *pipeConn) LocalAddr() net.Addr                { return pipeAddr(c.path) }
func (c *pipeConn) RemoteAddr() net.Addr               { return pipeAddr(c.path) }
func (c *pipeConn) SetReadDeadline(t time.Time) error  { return c.file.SetReadDeadline(t) }
func (c *pipeConn) SetWriteDeadline(t time.Time) error { return c.file.SetWriteDeadline(t) }
func (c *pipeConn) SetDeadline(t time.Time) error {
	return errors.Join(c.file.SetReadDeadline(t), c.file.SetWriteDeadline(t))
}

// Read reads bytes, whatever the messages that they came in.
func (c *pipeConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	if ended {
		return 0, io.EOF
	}
	n, err := c.file.Read(b)
	switch {
	case errors.Is(err, windows.ERROR_MORE_DATA):
		err = nil
	case errors.Is(err, windows.ERROR_PIPE_NOT_CONNECTED): // the server has disconnected
		err = io.EOF
	}
	if err == io.EOF {
		c.mu.Lock()
		c.ended = true
		c.mu.Unlock()
	}
	return n, err
}

// Write writes one message, or bytes.
func (c *pipeConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	cut := c.cut
	c.mu.Unlock()
	if cut {
		return 0, errno.EPIPE
	}
	if len(b) == 0 {
		return 0, nil
	}
	return c.file.Write(b)
}

// CloseWrite has an empty message sent, once the peer has read what came before:
// a reader takes bytes across messages and would not see one that follows others.
func (c *pipeConn) CloseWrite() error {
	if !c.message {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	if c.cut {
		return nil
	}
	c.cut = true
	// A handle of its own, since that of the file may be closed at any time.
	self := windows.CurrentProcess()
	var own windows.Handle
	err := windows.DuplicateHandle(self, windows.Handle(c.file.Fd()), self, &own, 0, false, windows.DUPLICATE_SAME_ACCESS)
	if err != nil {
		return os.NewSyscallError("DuplicateHandle", err)
	}
	c.own = own
	go c.sendEnd(own)
	return nil
}

// sendEnd waits for the peer; Close ends that.
func (c *pipeConn) sendEnd(own windows.Handle) {
	if windows.FlushFileBuffers(own) == nil {
		_ = writeNothing(own)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own = 0
	_ = windows.CloseHandle(own)
}

// stopEnd ends sendEnd's wait. That may just not have begun, so it is done more
// than once.
func (c *pipeConn) stopEnd(tries int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own == 0 || tries > 20 {
		return
	}
	_ = windows.CancelIoEx(c.own, nil)
	time.AfterFunc(50*time.Millisecond, func() { c.stopEnd(tries + 1) })
}

// writeNothing sends an empty message.
func writeNothing(h windows.Handle) error {
	event, err := windows.CreateEvent(nil, 1, 0, nil)
	if err != nil {
		return err
	}
	defer windows.CloseHandle(event)
	// The lowest bit keeps the result from the completion port, where go-winio
	// would take it for one of its own (GetQueuedCompletionStatus).
	o := &windows.Overlapped{HEvent: event | 1}
	var pin runtime.Pinner
	pin.Pin(o)
	defer pin.Unpin()
	var n uint32
	err = windows.WriteFile(h, nil, &n, o)
	if err == windows.ERROR_IO_PENDING {
		err = windows.GetOverlappedResult(h, o, &n, true)
	}
	return err
}

// Close leaves what was written to the peer, which reads the end after it.
func (c *pipeConn) Close() error {
	c.once.Do(func() {
		c.mu.Lock()
		c.closed = true
		ending := c.own != 0
		c.mu.Unlock()
		if ending {
			c.stopEnd(0)
		}
		_ = c.file.Close() // never fails
	})
	return nil
}
