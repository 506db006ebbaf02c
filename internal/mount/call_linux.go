package mount

import (
	"bytes"
	"encoding/binary"
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"drvsock/internal/seccomp"
)

// doing is the system call that a task waits in, as far as it matters here.
type doing int

const (
	doingUnknown doing = iota // /proc doesn't tell us
	doingOther
	doingBind
	doingConnect
	doingPath // O_PATH: a connect by the descriptor looks no name up
)

// A call is one of those two with the number of its socket, -1 if unknown.
type call struct {
	doing doing
	fd    int
	addr  uint64 // where its address is in the task's memory, 0 if unknown
	size  int    // of the address

	packed uint64 // where the three are, with socketcall(2), else 0
}

// unknown has no call be known, for a test.
var unknown atomic.Bool

// callOf reads which call the thread tid waits in (proc_pid_syscall(5)). It is
// known to root, and to the thread's own user where ptrace(2) is allowed: not
// with Yama's ptrace_scope 1, nor for programs that aren't dumpable. A call made
// by io_uring is unknown.
func callOf(tid int) call {
	if tid <= 0 || unknown.Load() {
		return call{fd: -1}
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/syscall")
	if err != nil {
		return call{fd: -1}
	}
	c := parseCall(b)
	if c.packed != 0 {
		c.unpack(tid)
	}
	return c
}

// unpack reads what socketcall(2) was given, three numbers of 32 bits.
func (c *call) unpack(tid int) {
	var b [12]byte
	if seccomp.ReadMemory(tid, c.packed, b[:]) != nil {
		return
	}
	word := func(i int) uint32 { return binary.NativeEndian.Uint32(b[4*i:]) }
	c.fd, c.addr, c.size = int(int32(word(0))), uint64(word(1)), int(int32(word(2)))
}

// socketCalls is what socketcall(2) of 32-bit programs takes for its first
// argument.
var socketCalls = map[uint64]doing{2: doingBind, 3: doingConnect}

func parseCall(b []byte) call {
	f := bytes.Fields(b)
	if len(f) < 7 { // "running", or "-1" and two addresses
		return call{fd: -1}
	}
	nr, err := strconv.Atoi(string(f[0]))
	var args [3]uint64
	for i := range args {
		if err == nil {
			args[i], err = strconv.ParseUint(string(bytes.TrimPrefix(f[1+i], []byte("0x"))), 16, 64)
		}
	}
	if err != nil {
		return call{fd: -1}
	}
	first := args[0]
	switch nr {
	case unix.SYS_BIND, compatBind:
		return call{doing: doingBind, fd: int(int32(first)), addr: args[1], size: int(int32(args[2]))}
	case unix.SYS_CONNECT, compatConnect:
		return call{doing: doingConnect, fd: int(int32(first)), addr: args[1], size: int(int32(args[2]))}
	case compatSocketcall:
		if d := socketCalls[first]; d != doingUnknown {
			return call{doing: d, fd: -1, packed: args[1]}
		}
		return call{doing: doingOther, fd: -1}
	case unix.SYS_OPENAT, compatOpenat:
		return opening(args[2])
	case plainOpen, compatOpen:
		return opening(args[1])
	case unix.SYS_OPENAT2: // its flags are in memory, and only with O_PATH can it open a socket
		return opening(unix.O_PATH)
	case unix.SYS_IO_URING_ENTER:
		return call{fd: -1}
	}
	return call{doing: doingOther, fd: -1}
}

// opening is an open with these flags.
func opening(flags uint64) call {
	if flags&unix.O_PATH != 0 {
		return call{doing: doingPath, fd: -1}
	}
	return call{doing: doingOther, fd: -1}
}

// socket copies the call's socket, -1 if that is not possible.
func (c call) socket(tid int) int {
	if c.fd < 0 {
		return -1
	}
	fd, err := seccomp.GetFD(tid, c.fd)
	if err != nil {
		return -1
	}
	return fd
}

// bareName tells if the call's address is a name without a folder. What the
// program may change meanwhile is only what the host's programs see as the
// socket's name.
func (c call) bareName(tid int) bool {
	const family, most = 2, 110 // struct sockaddr_un
	if c.addr == 0 || c.size <= family || c.size > most {
		return false
	}
	b := make([]byte, c.size)
	if err := seccomp.ReadMemory(tid, c.addr, b); err != nil {
		return false
	}
	name, _, _ := bytes.Cut(b[family:], []byte{0})
	return len(name) > 0 && bytes.IndexByte(name, '/') < 0
}

// isStream tells if the socket fd is of the one type that hosts have.
func isStream(fd int) bool {
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	return err == nil && typ == unix.SOCK_STREAM
}

// unconnected tells if connect(2) of fd can succeed by its state.
func unconnected(fd int) bool {
	if v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err == nil && v != 0 {
		return false
	}
	_, err := unix.Getpeername(fd)
	return err != nil
}
