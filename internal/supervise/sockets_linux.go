package supervise

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/link"
	"drvsock/internal/lookup"
	"drvsock/internal/names"
	"drvsock/internal/wire"
)

// fileID is a file on a drive as the guest sees it. Comparing files, not names,
// makes hard links, other spellings and other mounts of a folder the same. File
// systems of Linux give the number of a removed file to the next one at once;
// the time, which for a socket is that of bind, tells the two apart.
type fileID struct {
	dev, ino uint64
	mtime    unix.Timespec
}

func identify(st *unix.Stat_t) fileID {
	return fileID{dev: uint64(st.Dev), ino: st.Ino, mtime: st.Mtim}
}

// A socket is a program's socket that is bound on a drive. We hold no
// descriptor of it: that would keep it open when the program closes it.
type socket struct {
	inode uint64        // of the socket itself
	name  *names.Name   // where it can be reached natively
	base  []byte        // its name there
	made  wire.Request  // the KindBind that made the host's socket
	owner *lookup.Task  // as it was when it bound the socket
	gone  chan struct{} // closed when the program's last descriptor of it is
	gate  link.Gate     // of host programs that come

	mu        sync.Mutex
	listening bool
	backlog   uint32
	abandoned bool // its name on the host is somebody else's now
	connected bool // it connected itself, so the host's socket is that connection's
	folder    int  // O_PATH descriptor of the folder that it is bound in, owned; -1 once closed

	complaint string // why it was not back the last time; who mends has it

	// Guarded by sockets.mu, as they are keys there.
	handle *link.Stream // the host's socket, on the link of the time
	file   fileID
}

// path is the socket's name on the host, for messages.
func (s *socket) path() string { return string(s.made.Path) }

// inFolder calls fn with the folder that the socket is bound in. The program may
// close the socket, and so we the folder, at any time: fn gets a copy.
func (s *socket) inFolder(fn func(dir int) error) error {
	s.mu.Lock()
	dir, err := unix.FcntlInt(uintptr(s.folder), unix.F_DUPFD_CLOEXEC, 0)
	s.mu.Unlock()
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	defer unix.Close(dir)
	return fn(dir)
}

// look asks the guest's kernel which file the socket has now, zero for none. A
// file that is mounted there, as whoever has a mount namespace of his own may
// do, is not the socket's.
func (s *socket) look() (id fileID) {
	id, _ = s.lookAt()
	return id
}

// lookAt is look, with the file's permission bits.
func (s *socket) lookAt() (id fileID, mode uint32) {
	_ = s.inFolder(func(dir int) error {
		fd, err := unix.Openat2(dir, string(s.base), &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_XDEV,
		})
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		id, mode = identify(&st), st.Mode&0o777
		return nil
	})
	return id, mode
}

// leave lets go of the folder.
func (s *socket) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = unix.Close(s.folder)
	s.folder = -1
}

// listens tells if the program listens, and with which backlog.
func (s *socket) listens() (bool, uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listening, s.backlog
}

// startListening tells if that is news to the host: the socket was not listening
// before, or with another backlog. undo is for when the host is not to be told.
func (s *socket) startListening(backlog uint32) (undo func(), news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was, before := s.listening, s.backlog
	s.listening, s.backlog = true, backlog
	undo = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.listening, s.backlog = was, before
	}
	return undo, !was || backlog != before
}

func (s *socket) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abandoned = true
}

func (s *socket) alive() bool {
	select {
	case <-s.gone:
		return false
	default:
		return true
	}
}

// sockets finds them by what the kernel or the agent calls them.
type sockets struct {
	log   *slog.Logger
	watch *watch

	mu      sync.Mutex
	inodes  map[uint64]*socket
	files   map[fileID]*socket
	handles map[uint32]*socket
	leaving int           // handles that the agent has yet to let go of
	over    chan struct{} // closed when there are none of either; nil until somebody waits
}

func newSockets(log *slog.Logger) *sockets {
	return &sockets{
		log: log, inodes: map[uint64]*socket{}, files: map[fileID]*socket{}, handles: map[uint32]*socket{},
	}
}

// replace notes of sockets whose name a new one has that they live on without: they had
// lost it, and must not take it once more when the link is lost.
func (t *sockets) replace(by *socket) {
	var same []*socket
	t.mu.Lock()
	for _, s := range t.inodes {
		if bytes.EqualFold(s.made.Path, by.made.Path) {
			same = append(same, s)
		}
	}
	t.mu.Unlock()
	for _, s := range same {
		// The drive may or may not tell names by their case.
		if bytes.Equal(s.made.Path, by.made.Path) || by.file != (fileID{}) && s.look() == by.file {
			s.giveUp()
		}
	}
}

// add registers sock until the program's socket, of which c is a copy, is closed.
func (t *sockets) add(c int, sock *socket) error {
	sock.gone = make(chan struct{})
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watch == nil {
		w, err := newWatch()
		if err != nil {
			return fmt.Errorf("watch sockets: %w", err)
		}
		t.watch = w
	}
	if err := t.watch.add(c, sock.inode, func() { t.remove(sock) }); err != nil {
		return fmt.Errorf("watch a socket: %w", err)
	}
	t.inodes[sock.inode] = sock
	t.handles[sock.handle.ID()] = sock
	if sock.file != (fileID{}) {
		t.files[sock.file] = sock
	}
	return nil
}

// remove closes what belongs to a socket that the program closed. The file on
// the host stays, as it does on one machine.
func (t *sockets) remove(sock *socket) {
	t.mu.Lock()
	if t.inodes[sock.inode] != sock {
		t.mu.Unlock()
		return
	}
	handle := sock.handle
	delete(t.inodes, sock.inode)
	if t.handles[handle.ID()] == sock {
		delete(t.handles, handle.ID())
	}
	if t.files[sock.file] == sock {
		delete(t.files, sock.file)
	}
	t.leaving++
	t.mu.Unlock()
	close(sock.gone)
	go t.leave(sock, handle)
	_ = sock.name.Close()
	sock.leave()
	t.log.Debug("closed", "path", sock.path())
}

// leaveWait bounds how long the agent may take to close a socket.
const leaveWait = time.Second

// leave has the agent close a socket, and waits until it has. If the link ended
// before, the agent would take the socket for lost with it and remove the file, and
// which of the two it learns of first would be left to chance.
func (t *sockets) leave(sock *socket, handle *link.Stream) {
	sock.gate.Close()
	_ = handle.CloseWrite() // the agent ends it too; Close would have its link do so at once
	waitFor(handle.Done(), leaveWait)
	_ = handle.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leaving--
	if len(t.inodes) == 0 && t.leaving == 0 && t.over != nil {
		close(t.over)
		t.over = nil
	}
}

// rebound gives a socket its new host socket and file. It says false if the
// program closed it meanwhile; the caller then closes the handle.
func (t *sockets) rebound(sock *socket, handle *link.Stream, file fileID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inodes[sock.inode] != sock {
		return false
	}
	if t.handles[sock.handle.ID()] == sock { // ids begin anew on each link
		delete(t.handles, sock.handle.ID())
	}
	if t.files[sock.file] == sock {
		delete(t.files, sock.file)
	}
	sock.handle, sock.file = handle, file
	t.handles[handle.ID()] = sock
	if file != (fileID{}) {
		t.files[file] = sock
	}
	return true
}

// all lists the sockets that live.
func (t *sockets) all() []*socket {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Values(t.inodes))
}

// keys gives what a socket is found by.
func (t *sockets) keys(sock *socket) (*link.Stream, fileID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return sock.handle, sock.file
}

func (t *sockets) none() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.inodes) == 0
}

// empty is closed once no socket is registered and the agent has closed them all.
func (t *sockets) empty() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.inodes) == 0 && t.leaving == 0 {
		over := make(chan struct{})
		close(over)
		return over
	}
	if t.over == nil {
		t.over = make(chan struct{})
	}
	return t.over
}

// of finds the socket that c is a copy of, or nil.
func (t *sockets) of(c int) *socket {
	var st unix.Stat_t
	if unix.Fstat(c, &st) != nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.inodes[st.Ino]
}

// handleOf gives the stream of the host socket that belongs to c, nil for none.
// Its number means something on its own link only.
func (t *sockets) handleOf(c int) *link.Stream {
	sock := t.of(c)
	if sock == nil {
		return nil
	}
	handle, _ := t.keys(sock)
	return handle
}

// connected notes that c is now a connection.
func (t *sockets) connected(c int) {
	if sock := t.of(c); sock != nil {
		sock.mu.Lock()
		sock.connected = true
		sock.mu.Unlock()
	}
}

// at finds the living socket whose file on the drive is st, or nil.
func (t *sockets) at(st *unix.Stat_t) *socket {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.files[identify(st)]
}

func (t *sockets) byHandle(id uint32) *socket {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.handles[id]
}

func (t *sockets) close() {
	for _, s := range t.all() {
		t.remove(s)
	}
	t.mu.Lock()
	w := t.watch
	t.watch = nil
	t.mu.Unlock()
	if w != nil {
		w.close()
	}
}
