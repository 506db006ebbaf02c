package seccomp

import (
	"encoding/binary"
	"fmt"
)

// A Notif is a call of a task that waits for an answer.
type Notif struct {
	// ID names the call towards the Listener. It is never used again.
	ID uint64
	// TID is the waiting thread, in the numbering of the PID namespace of the
	// process that reads the Listener; 0 if the thread isn't visible there.
	TID int

	nr   int32
	arch uint32
	args [6]uint64
}

// An Op is the sort of a call.
type Op uint8

// The calls that a filter hands over.
const (
	OpUnknown  Op = iota // none of ours: let it continue
	OpBind               // bind(FD, Addr, Len)
	OpConnect            // connect(FD, Addr, Len)
	OpListen             // listen(FD, Backlog)
	OpDumpable           // prctl(PR_SET_DUMPABLE, 0), see Options
	OpPeerCred           // getsockopt(FD, SOL_SOCKET, SO_PEERCRED, Addr, LenAddr), see Options
)

// String gives the name of the system call.
func (o Op) String() string {
	switch o {
	case OpBind:
		return "bind"
	case OpConnect:
		return "connect"
	case OpListen:
		return "listen"
	case OpDumpable:
		return "prctl"
	case OpPeerCred:
		return "getsockopt"
	}
	return "unknown"
}

// A Call is a call as the kernel would see it, whatever the table of system
// calls it came through. Nothing in it has been checked.
type Call struct {
	Op      Op
	FD      int    // descriptor of the task
	Addr    uint64 // bind and connect: where the sockaddr lies in the task's memory; getsockopt: where the value goes
	LenAddr uint64 // getsockopt: where the value's length lies
	Len     int    // bind and connect: its length as passed, which may be negative
	Backlog int    // listen: as passed, which may be negative
	Compat  bool   // made by a 32-bit program
}

// Call decodes n. It reads the task's memory if, and only if, the call came
// through socketcall(2), and then fails as [ReadMemory] does; EFAULT is what
// the kernel would return to the task. The caller checks [Listener.Valid]
// before it relies on what was read.
func (n *Notif) Call() (Call, error) {
	return n.decode(func(addr uint64, buf []byte) error { return ReadMemory(n.TID, addr, buf) })
}

func (n *Notif) decode(read func(addr uint64, buf []byte) error) (Call, error) {
	for i := range abis {
		if t := &abis[i]; t.audit == n.arch {
			return n.decodeIn(t, read)
		}
	}
	return Call{}, nil
}

func (n *Notif) decodeIn(t *abi, read func(addr uint64, buf []byte) error) (Call, error) {
	nr := uint32(n.nr)
	c := Call{Compat: t.compat || nr&t.ignore != 0}
	a := n.args
	switch nr &^ t.ignore {
	case t.bind:
		c.Op = OpBind
	case t.connect:
		c.Op = OpConnect
	case t.listen:
		c.Op = OpListen
	case t.prctl:
		c.Op = OpDumpable
		return c, nil
	case t.getsockopt:
		c.Op, c.FD, c.Addr, c.LenAddr = OpPeerCred, int(int32(a[0])), a[3], a[4]
		if t.compat {
			c.Addr, c.LenAddr = uint64(uint32(a[3])), uint64(uint32(a[4]))
		}
		return c, nil
	default:
		if t.socketcall == 0 || nr != t.socketcall {
			return c, nil
		}
		switch uint32(a[0]) {
		case sysBind:
			c.Op = OpBind
		case sysConnect:
			c.Op = OpConnect
		case sysListen:
			c.Op = OpListen
		default:
			return c, nil
		}
		var buf [12]byte
		size := 12
		if c.Op == OpListen {
			size = 8
		}
		// The pointer is 32 bits wide: the rest of the register is not looked at.
		if err := read(uint64(uint32(a[1])), buf[:size]); err != nil {
			return c, fmt.Errorf("read arguments of socketcall: %w", err)
		}
		for i := range 3 {
			a[i] = uint64(binary.LittleEndian.Uint32(buf[4*i:]))
		}
	}
	c.FD = int(int32(a[0]))
	if c.Op == OpListen {
		c.Backlog = int(int32(a[1]))
		return c, nil
	}
	c.Addr = a[1]
	if t.compat {
		c.Addr = uint64(uint32(a[1]))
	}
	c.Len = int(int32(a[2]))
	return c, nil
}

// rawNotif is struct seccomp_notif (include/uapi/linux/seccomp.h).
type rawNotif struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

// rawResp is struct seccomp_notif_resp.
type rawResp struct {
	id    uint64
	val   int64
	err   int32
	flags uint32
}

// rawAddFD is struct seccomp_notif_addfd.
type rawAddFD struct {
	id         uint64
	flags      uint32
	srcfd      uint32
	newfd      uint32
	newfdFlags uint32
}

// rawSizes is struct seccomp_notif_sizes.
type rawSizes struct {
	notif, resp, data uint16
}
