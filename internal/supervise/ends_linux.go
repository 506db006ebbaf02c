package supervise

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/seccomp"
)

// Looks at the tree's descriptors take at most a fifth of the time, in which what
// asks waits for the next, at most rescanAfter: so many connections which fail
// together cost one look.
const (
	lookShare   = 5
	rescanAfter = 100 * time.Millisecond
	// moves is how many looks there are at most for an end that a look has found and
	// that was then not there: handed on to a child, as servers do after accept.
	moves = 3
)

// ends finds the descriptor of a program's end of a connection that it
// accepted, a call which the supervisor has no part in. It is only needed when
// a connection fails, so nothing is kept for those that don't.
var ends struct {
	mu      sync.Mutex
	began   time.Time // when the last look did
	took    time.Duration
	sockets map[uint64]peer // by inode
}

// findEnd copies the program's end of a connection, the socket with this inode, false
// if no program of the tree has it. What an earlier look found is good as long as it
// is there; only one that began after the call can say that there is none, since
// connections are accepted at any time.
func findEnd(inode uint64) (fd int, ok bool) {
	asked := time.Now()
	ends.mu.Lock()
	defer ends.mu.Unlock()
	if p, ok := ends.sockets[inode]; ok {
		if fd, ok := p.socketAt(); ok {
			return fd, true
		}
	}
	if ends.began.After(asked) {
		return -1, false
	}
	for range moves {
		time.Sleep(time.Until(ends.began.Add(min(lookShare*ends.took, rescanAfter))))
		ends.began, ends.sockets = time.Now(), map[uint64]peer{}
		socketsBelow(os.Getpid(), ends.sockets, 0)
		ends.took = time.Since(ends.began)
		p, ok := ends.sockets[inode]
		if !ok {
			break
		}
		if fd, ok := p.socketAt(); ok {
			return fd, true
		}
	}
	return -1, false
}

// maxDepth bounds the generations of a tree that are looked at.
const maxDepth = 256

// socketsBelow notes the sockets of all descendants of pid. As we are their
// subreaper, none of the tree's is anywhere else.
func socketsBelow(pid int, into map[uint64]peer, depth int) {
	if depth > maxDepth {
		return
	}
	tasks, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
	if err != nil {
		return
	}
	for _, task := range tasks {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/task/" + task.Name() + "/children")
		if err != nil {
			continue
		}
		for f := range strings.FieldsSeq(string(b)) {
			child, err := strconv.Atoi(f)
			if err != nil {
				continue
			}
			socketsOf(child, into)
			socketsBelow(child, into, depth+1)
		}
	}
}

// socketsOf notes the sockets among the descriptors of pid.
func socketsOf(pid int, into map[uint64]peer) {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	fds, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, f := range fds {
		text, err := os.Readlink(dir + "/" + f.Name())
		if err != nil {
			continue
		}
		text, ok := strings.CutPrefix(text, "socket:[")
		if !ok {
			continue
		}
		inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64)
		fd, err2 := strconv.Atoi(f.Name())
		if err == nil && err2 == nil {
			into[inode] = peer{tid: pid, fd: fd, inode: inode}
		}
	}
}

// end copies the program's end of the connection: from where it was when it
// called connect, if it still is there, or from where it is found.
func (c *conn) end() (fd int, ok bool) {
	if c.peer.inode != 0 {
		if fd, ok := c.peer.socketAt(); ok {
			return fd, true
		}
		return findEnd(c.peer.inode)
	}
	inode, err := peerOf(c.own)
	if err != nil || inode == 0 { // 0: not accepted yet
		return -1, false
	}
	return findEnd(uint64(inode))
}

// socketAt copies the descriptor of a program's end, if it is still there.
func (p peer) socketAt() (int, bool) {
	fd, err := seccomp.GetFD(p.tid, p.fd)
	if err != nil {
		return -1, false
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Ino != p.inode {
		_ = unix.Close(fd)
		return -1, false
	}
	return fd, true
}
