package supervise

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"drvsock/internal/drive"
	"drvsock/internal/errno"
	"drvsock/internal/lookup"
	"drvsock/internal/seccomp"
)

// supervisor answers the calls of one tree.
type supervisor struct {
	log      *slog.Logger
	notify   *seccomp.Listener
	names    *naming
	drives   *drive.Resolver
	mounts   *drive.Mounts
	host     *host
	meetings *meetings
	sockets  *sockets
	clients  clients
	patience patience
	work     *inflight              // connections being relayed or made, and calls being answered
	lately   atomic.Pointer[string] // a folder, by the name of a call, that was on a drive
	mending  sync.Mutex             // one restore at a time
	losses   chan struct{}          // gets a word for it, one at most
	closing  sync.Once
}

func newSupervisor(log *slog.Logger) *supervisor {
	s := &supervisor{log: log, meetings: newMeetings(), work: newInflight(), losses: make(chan struct{}, 1)}
	s.sockets = newSockets(log)
	return s
}

// close ends the agent and everything else. It may be called more than once.
func (s *supervisor) close() {
	s.closing.Do(func() {
		if s.notify != nil {
			_ = s.notify.Close()
		}
		if s.host != nil {
			s.host.close()
		}
		s.sockets.close()
		s.meetings.close()
		if s.names != nil {
			s.names.close()
		}
		if s.mounts != nil {
			s.mounts.Close()
		}
	})
}

// idle is closed when nothing is left to do for the tree: no relayed
// connection and no socket of it bound on a drive.
func (s *supervisor) idle() <-chan struct{} {
	c := make(chan struct{})
	go func() {
		defer close(c)
		<-s.sockets.empty()
		s.work.wait()
	}()
	return c
}

// idleWorkers is how many goroutines wait for a call with a stack that has grown
// to what a call needs. A new one has to copy its stack twice on the way.
const idleWorkers = 4

// serve takes calls until no task uses the filter any more.
func (s *supervisor) serve() {
	calls := make(chan seccomp.Notif)
	defer close(calls) // ends the workers that wait
	var waiting atomic.Int32
	for {
		n, err := s.notify.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
				s.log.Error("no more calls can be taken", "err", err)
			}
			return
		}
		// One task waits behind each of these, so their number is the tree's own.
		s.work.add()
		select {
		case calls <- n:
		default:
			go s.worker(n, calls, &waiting)
		}
		runtime.Gosched() // it may begin here, before another thread has woken up for it
	}
}

// worker answers n and then, unless enough others wait, the calls to come.
func (s *supervisor) worker(n seccomp.Notif, calls <-chan seccomp.Notif, waiting *atomic.Int32) {
	for ok := true; ok; {
		s.answer(n)
		s.work.done()
		if waiting.Add(1) > idleWorkers {
			waiting.Add(-1)
			return
		}
		n, ok = <-calls
		waiting.Add(-1)
	}
}

// errNative is the outcome of a call that is not ours: the kernel shall carry it
// out as it stands, and if it fails there, fail as it always would.
var errNative = errors.New("not ours")

// answer carries one call out or lets it go on. Whatever happens, the task gets
// an answer.
func (s *supervisor) answer(n seccomp.Notif) {
	call, err := n.Call()
	var then func()
	if err == nil {
		switch call.Op {
		case seccomp.OpConnect:
			then, err = s.connect(n, call)
		case seccomp.OpBind:
			err = s.bind(n, call)
		case seccomp.OpListen:
			err = s.listen(n, call)
		case seccomp.OpDumpable:
			err = s.holdDumpable(n)
		case seccomp.OpPeerCred:
			err = s.peerCred(n, call)
		default:
			err = errNative
		}
	}
	switch {
	case errors.Is(err, errNative), errors.Is(err, seccomp.ErrGone), errors.Is(err, os.ErrNotExist):
		_ = s.notify.Continue(n.ID)
	case err == nil:
		_ = s.notify.Return(n.ID, 0, 0)
	default:
		s.log.Info("refused", "call", call.Op.String(), "task", n.TID, "err", err)
		_ = s.notify.Return(n.ID, 0, errno.FromSystem(err, errno.LayerGuest).Errno)
	}
	if then != nil {
		then() // what the task need not wait for
	}
}

// holdDumpable answers prctl(PR_SET_DUMPABLE, 0) without carrying it out: a
// supervisor without privileges could not look into the task afterwards, and
// every socket call of it would fail. docs/security.md says what that means.
// What the call is mostly made for stays: no core dump.
func (s *supervisor) holdDumpable(n seccomp.Notif) error {
	tgid, err := seccomp.Tgid(n.TID)
	if err != nil {
		return err
	}
	var lim unix.Rlimit
	if err := unix.Prlimit(tgid, unix.RLIMIT_CORE, nil, &lim); err != nil {
		return errNative
	}
	if !s.notify.Valid(n.ID) {
		return seccomp.ErrGone // or the number may be another process's
	}
	lim.Cur = 0
	if err := unix.Prlimit(tgid, unix.RLIMIT_CORE, &lim, nil); err != nil {
		return errNative
	}
	s.log.Info("task asked not to be dumpable: core dumps are off, the rest is held back", "pid", tgid)
	return nil
}

// maxSockaddr is sizeof(struct sockaddr_un) of unix(7). The kernel refuses
// longer ones, and so need not be kept from doing that.
const maxSockaddr = 110

// sockaddr reads the address of a call. It is native unless it is a path name
// of AF_UNIX.
func (s *supervisor) sockaddr(n seccomp.Notif, call seccomp.Call) ([]byte, error) {
	if call.Len < 3 || call.Len > maxSockaddr {
		return nil, errNative
	}
	b := make([]byte, call.Len)
	if err := seccomp.ReadMemory(n.TID, call.Addr, b); err != nil {
		if errors.Is(err, unix.EPERM) {
			s.log.Warn("a task can't be looked into, its call is left alone", "task", n.TID, "call", call.Op.String(), "err", err)
		}
		return nil, errNative
	}
	// sa_family_t is in the machine's byte order; both kinds we run on are little endian.
	if int(b[0])|int(b[1])<<8 != unix.AF_UNIX || b[2] == 0 {
		return nil, errNative
	}
	return b, nil
}

// sunPath is the path of a sockaddr: up to its NUL or end.
func sunPath(sockaddr []byte) []byte {
	p := sockaddr[2:]
	if i := bytes.IndexByte(p, 0); i >= 0 {
		p = p[:i]
	}
	return p
}

// onDrive finds the host's path of a place, or errNative. Any other error is of
// a folder that may be on a drive and whose name there can't be told.
func (s *supervisor) onDrive(t *lookup.Task, p *lookup.Place) ([]byte, error) {
	if len(p.Base) == 0 {
		return nil, errNative
	}
	folder, ok, err := s.drives.Resolve(p.Parent, t.TID)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errNative
	}
	return drive.JoinHost(folder, p.Base), nil
}

// A target is what the address of a bind or connect means to its task.
type target struct {
	sockaddr []byte // as the task passed it
	task     *lookup.Task
	place    *lookup.Place // the caller closes it
	path     []byte        // on the host
}

// target finds out where a call leads, or errNative if that is no drive or
// nowhere. follow is for a symbolic link at the end.
func (s *supervisor) target(n seccomp.Notif, call seccomp.Call, follow bool) (*target, error) {
	sockaddr, err := s.sockaddr(n, call)
	if err != nil {
		return nil, err
	}
	if s.elsewhere(n.TID, sunPath(sockaddr)) {
		return nil, errNative
	}
	task, err := lookup.ReadTask(n.TID)
	if err != nil {
		return nil, err
	}
	place, err := task.Resolve(sunPath(sockaddr), follow)
	if err != nil {
		if wanting(err) {
			return nil, err
		}
		return nil, errNative
	}
	path, err := s.onDrive(task, place)
	if err != nil {
		s.lately.Store(nil)
		place.Close()
		return nil, err
	}
	return &target{sockaddr, task, place, path}, nil
}

// elsewhere tells at little cost of most paths off the drives that they are. Where the
// folder of that name was on a drive the last time, it doesn't look.
func (s *supervisor) elsewhere(tid int, path []byte) bool {
	name := string(path[:bytes.LastIndexByte(path, '/')+1])
	if last := s.lately.Load(); last != nil && *last == name {
		return false
	}
	folder, ok := lookup.Glance(tid, path)
	if !ok {
		return false
	}
	defer unix.Close(folder)
	_, onDrive, err := s.drives.Resolve(folder, tid)
	if err == nil && onDrive {
		s.lately.Store(&name)
	}
	return err == nil && !onDrive
}

// socketOf copies the task's descriptor and checks that it is a stream socket
// of AF_UNIX; another family or no socket is native, another type wrongType.
// The caller closes the copy.
func (s *supervisor) socketOf(n seccomp.Notif, fd int, wrongType errno.Errno) (int, error) {
	c, err := seccomp.GetFD(n.TID, fd)
	if err != nil {
		if wanting(err) {
			return -1, err
		}
		if errors.Is(err, unix.EPERM) {
			s.log.Warn("a task's socket can't be taken, its call is left alone", "task", n.TID, "err", err)
		}
		return -1, errNative
	}
	domain, err := unix.GetsockoptInt(c, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil || domain != unix.AF_UNIX {
		_ = unix.Close(c)
		return -1, errNative
	}
	typ, err := unix.GetsockoptInt(c, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || typ != unix.SOCK_STREAM {
		_ = unix.Close(c)
		return -1, errno.Errorf(wrongType, errno.LayerGuest, "only stream sockets reach a drive: Windows has no others")
	}
	return c, nil
}
