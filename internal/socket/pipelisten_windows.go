package socket

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"unsafe"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"

	"drvsock/internal/errno"
)

const (
	pipeBuffer  = 64 << 10 // in bytes, each way; a write waits beyond it
	pipePending = 4        // instances that wait for a client, so that few find the pipe busy
)

// pipeListener is a name and the instances that wait for clients.
type pipeListener struct {
	path string
	made *pipeName
	stop windows.Handle // an event, set by Close

	accepting sync.Mutex // held by Accept
	pending   []*pipeInstance

	mu     sync.Mutex
	closed bool
}

// A pipeInstance is the server's end of a connection that doesn't exist yet.
type pipeInstance struct {
	h    windows.Handle
	o    windows.Overlapped // of ConnectNamedPipe; the system writes to it
	done bool               // nothing is under way
}

// pipeNames are the pipes that this process has instances of. Windows refuses a
// first instance while any lives, and connections outlive their listener.
var pipeNames = struct {
	sync.Mutex
	live map[string]*pipeName
}{live: map[string]*pipeName{}}

type pipeName struct {
	key       string
	sddl      string
	message   bool
	instances int
	listening bool
}

func listenPipe(path string, o Options) (Listener, error) {
	if err := checkPipe(path); err != nil {
		return nil, err
	}
	sddl, err := descriptor(o.Access, allRights, pipeOthers)
	if err != nil {
		return nil, err
	}
	made, err := claim(path, sddl, o.Message)
	if err != nil {
		return nil, err
	}
	l := &pipeListener{path: path, made: made}
	if l.stop, err = windows.CreateEvent(nil, 1, 0, nil); err != nil {
		made.leave()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	first, err := l.instance()
	if err != nil {
		made.leave()
		_ = windows.CloseHandle(l.stop)
		if errors.Is(err, windows.ERROR_ACCESS_DENIED) || errors.Is(err, windows.ERROR_PIPE_BUSY) {
			if who, exists := pipeOwner(path); exists {
				return nil, refuse(errno.EADDRINUSE, "%s is taken: %s", path, who)
			}
		}
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.pending = append(l.pending, first)
	return l, nil
}

// claim reserves a name for one listener of this process.
func claim(path, sddl string, message bool) (*pipeName, error) {
	pipeNames.Lock()
	defer pipeNames.Unlock()
	key := strings.ToLower(path)
	n := pipeNames.live[key]
	switch {
	case n == nil:
		n = &pipeName{key: key, sddl: sddl, message: message}
		pipeNames.live[key] = n
	case n.listening:
		return nil, refuse(errno.EADDRINUSE, "%s is taken: this process listens there", path)
	case n.sddl != sddl || n.message != message:
		return nil, refuse(errno.EADDRINUSE, "%s is taken: connections live on whose listener let in others or was of another mode", path)
	}
	n.listening = true
	return n, nil
}

// leave ends the listener's part in the name.
func (n *pipeName) leave() {
	pipeNames.Lock()
	defer pipeNames.Unlock()
	n.listening = false
	n.forget()
}

// forget is called with the lock.
func (n *pipeName) forget() {
	if n.instances == 0 && !n.listening {
		delete(pipeNames.live, n.key)
	}
}

// create makes an instance, the first one as one that must not join others': a
// pipe of that name would be another program's, and its ACL the other's as well.
func (n *pipeName) create(path string) (windows.Handle, error) {
	sd, err := windows.SecurityDescriptorFromString(n.sddl)
	if err != nil {
		return 0, fmt.Errorf("ACL %s: %w", n.sddl, err)
	}
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return 0, err
	}
	sa := &windows.SecurityAttributes{SecurityDescriptor: sd}
	sa.Length = uint32(unsafe.Sizeof(*sa))
	mode := uint32(windows.PIPE_TYPE_BYTE)
	if n.message {
		mode = windows.PIPE_TYPE_MESSAGE
	}
	flags := uint32(windows.PIPE_ACCESS_DUPLEX | windows.FILE_FLAG_OVERLAPPED)
	pipeNames.Lock()
	defer pipeNames.Unlock()
	if n.instances == 0 {
		flags |= windows.FILE_FLAG_FIRST_PIPE_INSTANCE
	}
	h, err := windows.CreateNamedPipe(name, flags, mode|windows.PIPE_READMODE_BYTE|windows.PIPE_REJECT_REMOTE_CLIENTS,
		windows.PIPE_UNLIMITED_INSTANCES, pipeBuffer, pipeBuffer, 0, sa)
	if err == nil {
		n.instances++
	}
	return h, err
}

// release closes an instance. The count must not be ahead of the system's: with
// instances left, another program's pipe would be taken for our own.
func (n *pipeName) release(closeInstance func()) {
	pipeNames.Lock()
	defer pipeNames.Unlock()
	closeInstance()
	n.instances--
	n.forget()
}

// instance makes an instance that waits for a client.
func (l *pipeListener) instance() (*pipeInstance, error) {
	h, err := l.made.create(l.path)
	if err != nil {
		return nil, err
	}
	i := &pipeInstance{h: h}
	if i.o.HEvent, err = windows.CreateEvent(nil, 1, 0, nil); err == nil {
		err = i.connect()
	}
	if err != nil {
		l.drop(i)
		return nil, err
	}
	return i, nil
}

// connect begins to wait for a client.
func (i *pipeInstance) connect() error {
	for {
		switch err := windows.ConnectNamedPipe(i.h, &i.o); err {
		case nil, windows.ERROR_PIPE_CONNECTED:
			i.done = true
			return windows.SetEvent(i.o.HEvent)
		case windows.ERROR_IO_PENDING:
			return nil
		case windows.ERROR_NO_DATA: // a client that has gone already
			if err := windows.DisconnectNamedPipe(i.h); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// drop closes an instance that is nobody's connection.
func (l *pipeListener) drop(i *pipeInstance) {
	if i.o.HEvent != 0 && !i.done {
		// The system writes to i until the wait has ended.
		if err := windows.CancelIoEx(i.h, &i.o); err != windows.ERROR_NOT_FOUND {
			var n uint32
			_ = windows.GetOverlappedResult(i.h, &i.o, &n, true)
		}
	}
	l.made.release(func() { _ = windows.CloseHandle(i.h) })
	i.forget()
}

// forget frees what was needed to wait.
func (i *pipeInstance) forget() {
	if i.o.HEvent != 0 {
		_ = windows.CloseHandle(i.o.HEvent)
	}
}

func (l *pipeListener) Accept() (Conn, Peer, error) {
	l.accepting.Lock()
	defer l.accepting.Unlock()
	for {
		if l.isClosed() {
			return nil, Peer{}, net.ErrClosed
		}
		for len(l.pending) < pipePending {
			i, err := l.instance()
			if err != nil {
				if len(l.pending) == 0 {
					return nil, Peer{}, fmt.Errorf("instance of %s: %w", l.path, err)
				}
				break
			}
			l.pending = append(l.pending, i)
		}
		events := []windows.Handle{l.stop}
		for _, i := range l.pending {
			events = append(events, i.o.HEvent)
		}
		which, err := windows.WaitForMultipleObjects(events, false, windows.INFINITE)
		if err != nil {
			return nil, Peer{}, fmt.Errorf("wait for a client of %s: %w", l.path, err)
		}
		if which == windows.WAIT_OBJECT_0 {
			continue // closed
		}
		k := int(which-windows.WAIT_OBJECT_0) - 1
		i := l.pending[k]
		l.pending = append(l.pending[:k], l.pending[k+1:]...)
		if c, err := l.connected(i); err == nil {
			return c, Peer{Caller: pipeCaller(windows.Handle(c.file.Fd()))}, nil
		}
	}
}

// connected makes a connection of an instance that has got its client.
func (l *pipeListener) connected(i *pipeInstance) (*pipeConn, error) {
	if !i.done {
		i.done = true
		var n uint32
		if err := windows.GetOverlappedResult(i.h, &i.o, &n, false); err != nil {
			l.drop(i)
			return nil, err
		}
	}
	f, err := winio.NewOpenFile(i.h)
	if err != nil {
		l.drop(i)
		return nil, err
	}
	i.forget()
	file := f.(pipeFile)
	return &pipeConn{file: releasing{file, l.made}, path: l.path, message: l.made.message}, nil
}

// releasing is a pipe's end that takes itself off the count of its name.
type releasing struct {
	pipeFile
	made *pipeName
}

// Close is called once, by pipeConn.
func (r releasing) Close() error {
	r.made.release(func() { _ = r.pipeFile.Close() })
	return nil
}

func (l *pipeListener) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

func (l *pipeListener) Addr() string { return l.path }

func (l *pipeListener) Close() error {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	l.mu.Unlock()
	if !first {
		return nil
	}
	_ = windows.SetEvent(l.stop)
	l.accepting.Lock()
	defer l.accepting.Unlock()
	for _, i := range l.pending {
		l.drop(i)
	}
	l.pending = nil
	l.made.leave()
	return windows.CloseHandle(l.stop)
}
