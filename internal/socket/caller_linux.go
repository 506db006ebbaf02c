package socket

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"drvsock/internal/afunix"
	"drvsock/internal/wire"
)

// unixCaller asks the kernel who connected: the ids that the peer had when it
// called connect (SO_PEERCRED, man 7 unix).
func unixCaller(c *net.UnixConn) wire.Caller {
	caller := unknown()
	_ = afunix.Control(c, func(fd int) error {
		cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			return err
		}
		caller.UID, caller.GID = cred.Uid, cred.Gid
		if cred.Pid > 0 { // 0 for a process outside of this pid namespace
			caller.PID = uint32(cred.Pid)
			caller.Program = programOf(caller.PID)
		}
		return nil
	})
	return caller
}

// peerGroups asks the kernel for the supplementary groups that the peer had when it
// called connect (SO_PEERGROUPS, Linux 4.13); none if it doesn't tell.
func peerGroups(c *net.UnixConn) []uint32 {
	groups := make([]uint32, 64)
	_ = afunix.Control(c, func(fd int) error {
		for {
			size := uint32(len(groups)) * uint32(unsafe.Sizeof(groups[0]))
			_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
				uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
			need := int(size / uint32(unsafe.Sizeof(groups[0])))
			switch {
			case e == 0:
				groups = groups[:need]
				return nil
			case e == unix.ERANGE && need > len(groups): // at most NGROUPS_MAX, 65536
				groups = make([]uint32, need)
			default:
				groups = nil
				return e
			}
		}
	})
	return groups
}

// programOf returns the name of the program that runs as pid, empty if it can't
// be known. It is for people: the process may be another by now.
func programOf(pid uint32) string {
	dir := "/proc/" + strconv.FormatUint(uint64(pid), 10)
	if exe, err := os.Readlink(dir + "/exe"); err == nil {
		return filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
	}
	comm, err := os.ReadFile(dir + "/comm") // of other users too
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(comm), "\n")
}

// tcpCaller asks the kernel for the other end of c, of which it knows the user and
// nothing more.
func tcpCaller(c *net.TCPConn) wire.Caller {
	caller := unknown()
	here, ok1 := c.LocalAddr().(*net.TCPAddr)
	there, ok2 := c.RemoteAddr().(*net.TCPAddr)
	if !ok1 || !ok2 {
		return caller
	}
	local, remote := plainAddr(there), plainAddr(here)
	uid, err := diagUser(local, remote)
	if err == nil {
		caller.UID = uid
	}
	return caller
}

func plainAddr(a *net.TCPAddr) netip.AddrPort {
	p := a.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
