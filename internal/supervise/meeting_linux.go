package supervise

import (
	"container/list"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"drvsock/internal/afunix"
	"drvsock/internal/lookup"
	"drvsock/internal/names"
)

// maxMeetings bounds the listeners kept for names that programs connected to.
const maxMeetings = 256

// A meeting is a listener of ours that is bound to the very bytes of a name
// that a program connects to. What connects to it sees these bytes in
// getpeername(2), because the kernel copies the listener's name, and the
// program's own user in SO_PEERCRED: a program on the host must never pass for
// another user here, least of all for a supervisor that is root.
type meeting struct {
	mu       sync.Mutex // held from connect to accept, so that the two belong together
	key      meetingKey
	listener int
	name     *names.Name
	closed   bool
}

type meetingKey struct {
	uid, gid uint32
	groups   string
	sockaddr string
}

// meetings keeps the last ones used: programs connect to few names, often.
type meetings struct {
	mu    sync.Mutex
	byKey map[meetingKey]*list.Element
	used  *list.List // of *meeting, the last used first
}

func newMeetings() *meetings {
	return &meetings{byKey: map[meetingKey]*list.Element{}, used: list.New()}
}

// connect connects the program's socket c to a meeting and returns our end of
// the connection, which the caller owns.
func (m *meetings) connect(g *naming, t *lookup.Task, c int, sockaddr []byte) (int, error) {
	for {
		mt, err := m.get(g, t, sockaddr)
		if err != nil {
			return -1, err
		}
		r, err := mt.connect(c)
		if err == errClosedMeeting {
			continue
		}
		return r, err
	}
}

var errClosedMeeting = fmt.Errorf("closed")

func (mt *meeting) connect(c int) (int, error) {
	mt.mu.Lock()
	defer mt.mu.Unlock()
	if mt.closed {
		return -1, errClosedMeeting
	}
	// There is always room: what connects is accepted before the lock is let go.
	// So a blocking socket does not block here.
	err := mt.name.Use(func(path string) error { return unix.Connect(c, &unix.SockaddrUnix{Name: path}) })
	if err != nil {
		return -1, fmt.Errorf("connect the program's socket: %w", err)
	}
	for {
		r, _, err := unix.Accept4(mt.listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			// The connection stays queued here and would be taken for the next
			// one; closing the listener resets it.
			mt.close()
			return -1, fmt.Errorf("accept the program's connection: %w", err)
		}
		return r, nil
	}
}

// close expects the lock to be held.
func (mt *meeting) close() {
	if !mt.closed {
		mt.closed = true
		_ = unix.Close(mt.listener)
		_ = mt.name.Close()
	}
}

func (m *meetings) get(g *naming, t *lookup.Task, sockaddr []byte) (*meeting, error) {
	key := meetingKey{t.EUID, t.EGID, fmt.Sprint(t.Groups), string(sockaddr)}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.byKey[key]; ok {
		mt := e.Value.(*meeting)
		if !mt.closedNow() {
			m.used.MoveToFront(e)
			return mt, nil
		}
		m.drop(e)
	}
	mt, err := newMeeting(g, t, sockaddr)
	if err != nil {
		return nil, err
	}
	mt.key = key
	m.byKey[key] = m.used.PushFront(mt)
	if m.used.Len() > maxMeetings {
		e := m.used.Back()
		m.drop(e)
		// Not under our lock: somebody may be meeting there right now.
		go e.Value.(*meeting).end()
	}
	return mt, nil
}

func (m *meetings) drop(e *list.Element) {
	m.used.Remove(e)
	delete(m.byKey, e.Value.(*meeting).key)
}

func (m *meetings) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for e := m.used.Front(); e != nil; e = e.Next() {
		e.Value.(*meeting).end()
	}
	m.used.Init()
	clear(m.byKey)
}

func (mt *meeting) end() {
	mt.mu.Lock()
	defer mt.mu.Unlock()
	mt.close()
}

func (mt *meeting) closedNow() bool {
	mt.mu.Lock()
	defer mt.mu.Unlock()
	return mt.closed
}

func newMeeting(g *naming, t *lookup.Task, sockaddr []byte) (*meeting, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	afunix.RefuseRights(fd)
	name, err := g.bind(fd, sockaddr)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make the name to connect to: %w", err)
	}
	if err := t.AsPeer(func() error { return unix.Listen(fd, 16) }); err != nil {
		_ = name.Close()
		_ = unix.Close(fd)
		return nil, err
	}
	return &meeting{listener: fd, name: name}, nil
}
