package mount

import (
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/seccomp"
)

// An end is our end of a native connection to a program.
type end struct {
	*net.UnixConn
	pid int    // the program, as far as known
	own uint64 // inode of this end
}

// newEnd makes an end of c, which it takes over.
func newEnd(c *net.UnixConn, pid int) (*end, error) {
	raw, err := c.SyscallConn()
	var st unix.Stat_t
	if err == nil {
		if e := raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &st) }); e != nil {
			err = e
		}
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return &end{UnixConn: c, pid: pid, own: st.Ino}, nil
}

// peer is the inode of the program's socket: 0 if that was not accepted yet. Our end
// belongs to the network namespace of the program if that was the client
// (unix_stream_connect), which is another one in a container.
func (e *end) peer() (uint32, error) {
	peer, err := peerInode(0, uint32(e.own))
	if errors.Is(err, unix.ENOENT) && e.pid > 0 {
		return peerInode(e.pid, uint32(e.own))
	}
	return peer, err
}

// rescanAfter is how long a look at all programs' descriptors is good for, so
// that many connections which fail together cost one look.
const rescanAfter = 100 * time.Millisecond

// Abort makes the close that follows an abortive one for the program. AF_UNIX
// has one way to tell a failure from an end: a socket closed with bytes in its
// receive queue gives its peer ECONNRESET (unix_release_sock). So a byte is put
// into our queue, from the program's own socket where we may copy that.
func (e *end) Abort() {
	peer, err := e.peer()
	if err != nil || peer == 0 { // 0: not accepted yet
		return
	}
	fd := socketOf(e.pid, peer)
	if fd < 0 {
		fd = anywhere(peer)
	}
	if fd < 0 {
		return
	}
	defer unix.Close(fd)
	_ = unix.Sendto(fd, []byte{0}, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
}

// socketOf copies the descriptor that process pid has of the socket with this
// inode, -1 if there is none.
func socketOf(pid int, inode uint32) int {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	fds, err := os.ReadDir(dir)
	if err != nil {
		return -1
	}
	want := "socket:[" + strconv.FormatUint(uint64(inode), 10) + "]"
	for _, f := range fds {
		if text, err := os.Readlink(dir + "/" + f.Name()); err != nil || text != want {
			continue
		}
		n, err := strconv.Atoi(f.Name())
		if err != nil {
			continue
		}
		fd, err := seccomp.GetFD(pid, n)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && uint32(st.Ino) == inode {
			return fd
		}
		_ = unix.Close(fd)
	}
	return -1
}

var everywhere struct {
	mu     sync.Mutex
	looked time.Time
	owner  map[uint32]int // process by inode of a socket
}

// anywhere looks for the socket in all processes.
func anywhere(inode uint32) int {
	e := &everywhere
	e.mu.Lock()
	if _, ok := e.owner[inode]; !ok && time.Since(e.looked) > rescanAfter {
		e.owner = owners()
		e.looked = time.Now()
	}
	pid, ok := e.owner[inode]
	e.mu.Unlock()
	if !ok {
		return -1
	}
	return socketOf(pid, inode)
}

// owners notes a process for each socket that we may see.
func owners() map[uint32]int {
	all := map[uint32]int{}
	procs, _ := os.ReadDir("/proc")
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir := "/proc/" + p.Name() + "/fd"
		fds, _ := os.ReadDir(dir)
		for _, f := range fds {
			text, _ := os.Readlink(dir + "/" + f.Name())
			digits, ok := strings.CutPrefix(text, "socket:[")
			if !ok {
				continue
			}
			if n, err := strconv.ParseUint(strings.TrimSuffix(digits, "]"), 10, 32); err == nil {
				all[uint32(n)] = pid
			}
		}
	}
	return all
}
