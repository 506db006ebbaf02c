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

// rescanAfter is how long a look at the tree's descriptors is good for, so that
// many connections which fail together cost one look.
const rescanAfter = 100 * time.Millisecond

// ends finds the descriptor of a program's end of a connection that it
// accepted, a call which the supervisor has no part in. It is only needed when
// a connection fails, so nothing is kept for those that don't.
var ends struct {
	mu      sync.Mutex
	looked  time.Time
	sockets map[uint64]peer // by inode
}

// findEnd finds the program's end of the connection whose other end is the
// socket with the inode own.
func findEnd(own uint64) (peer, bool) {
	i, err := peerOf(own)
	if err != nil || i == 0 { // 0: not accepted yet
		return peer{}, false
	}
	inode := uint64(i)
	ends.mu.Lock()
	defer ends.mu.Unlock()
	p, ok := ends.sockets[inode]
	if !ok && time.Since(ends.looked) > rescanAfter {
		ends.sockets = map[uint64]peer{}
		socketsBelow(os.Getpid(), ends.sockets, 0)
		ends.looked = time.Now()
		p, ok = ends.sockets[inode]
	}
	return p, ok
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

// end is where the program's end of the connection is: known since it called
// connect, or looked for.
func (c *conn) end() (peer, bool) {
	if c.peer.inode != 0 {
		return c.peer, true
	}
	return findEnd(c.own)
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
