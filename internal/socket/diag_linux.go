package socket

import (
	"encoding/binary"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Of include/uapi/linux/sock_diag.h, inet_diag.h and unix_diag.h.
const (
	sockDiagByFamily = 20
	diagRequestLen   = 56 // struct inet_diag_req_v2
	diagAnswerLen    = 72 // struct inet_diag_msg
	unixRequestLen   = 24 // struct unix_diag_req
	unixAnswerLen    = 16 // struct unix_diag_msg
	udiagShowVFS     = 2
	unixDiagVFS      = 1
	tcpClose         = 7 // the state of a socket that is neither connected nor listens, of tcp_states.h
)

// diagUser asks the kernel for the user of the TCP socket that is bound to local
// and connected to remote (sock_diag(7), CONFIG_INET_DIAG).
func diagUser(local, remote netip.AddrPort) (uid uint32, err error) {
	fd, err := askDiag(diagRequest(local, remote))
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return 0, os.NewSyscallError("recvfrom", err)
	}
	return diagAnswer(buf[:n])
}

// askDiag makes a request, whose answer is read from fd. The caller closes it.
func askDiag(request []byte) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	// The answer is there when sendto returns; the bound is for a kernel that has
	// to load the module first.
	tv := unix.NsecToTimeval(int64(time.Second))
	if err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		err = os.NewSyscallError("setsockopt", err)
	} else if err = unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		err = os.NewSyscallError("sendto", err)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// diagBound asks the kernel whether a Unix socket of this network namespace that
// is not connected and doesn't listen is bound to the file (sock_diag(7),
// CONFIG_UNIX_DIAG). One that was accepted has the file of its listener, too, and
// doesn't count.
func diagBound(file *unix.Stat_t) (bool, error) {
	ne := binary.NativeEndian
	b := make([]byte, unix.SizeofNlMsghdr+unixRequestLen)
	ne.PutUint32(b[0:], uint32(len(b)))
	ne.PutUint16(b[4:], sockDiagByFamily)
	ne.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	r := b[unix.SizeofNlMsghdr:]
	r[0] = unix.AF_UNIX
	ne.PutUint32(r[4:], 1<<tcpClose)
	ne.PutUint32(r[12:], udiagShowVFS)
	ne.PutUint64(r[16:], ^uint64(0)) // no cookie
	fd, err := askDiag(b)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	// As the kernel has them, in 32 bits each.
	inode, device := uint32(file.Ino), unix.Major(file.Dev)<<20|unix.Minor(file.Dev)
	for buf := make([]byte, 32<<10); ; {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false, os.NewSyscallError("recvfrom", err)
		}
		found, more, err := diagFile(buf[:n], inode, device)
		if found || !more || err != nil {
			return found, err
		}
	}
}

// diagFile looks through one datagram of answers for a socket with that file;
// more says that it is not the last.
func diagFile(b []byte, inode, device uint32) (found, more bool, err error) {
	ne := binary.NativeEndian
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(ne.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return false, false, unix.EBADMSG
		}
		msg := b[unix.SizeofNlMsghdr:size]
		switch ne.Uint16(b[4:]) {
		case unix.NLMSG_DONE:
			return false, false, nil
		case unix.NLMSG_ERROR:
			if len(msg) < 4 {
				return false, false, unix.EBADMSG
			}
			return false, false, unix.Errno(-int32(ne.Uint32(msg)))
		case sockDiagByFamily:
			for a := msg[min(unixAnswerLen, len(msg)):]; len(a) >= 4; {
				n := int(ne.Uint16(a))
				if n < 4 || n > len(a) {
					return false, false, unix.EBADMSG
				}
				if ne.Uint16(a[2:]) == unixDiagVFS && n >= 12 && ne.Uint32(a[4:]) == inode && ne.Uint32(a[8:]) == device {
					return true, false, nil
				}
				a = a[min((n+3)&^3, len(a)):]
			}
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return false, true, nil
}

func diagRequest(local, remote netip.AddrPort) []byte {
	ne := binary.NativeEndian
	b := make([]byte, unix.SizeofNlMsghdr+diagRequestLen)
	ne.PutUint32(b[0:], uint32(len(b)))
	ne.PutUint16(b[4:], sockDiagByFamily)
	ne.PutUint16(b[6:], unix.NLM_F_REQUEST)
	r := b[unix.SizeofNlMsghdr:]
	r[0] = unix.AF_INET6
	if local.Addr().Is4() {
		r[0] = unix.AF_INET
	}
	r[1] = unix.IPPROTO_TCP
	ne.PutUint32(r[4:], ^uint32(0)) // all states
	id := r[8:]                     // struct inet_diag_sockid
	binary.BigEndian.PutUint16(id[0:], local.Port())
	binary.BigEndian.PutUint16(id[2:], remote.Port())
	copy(id[4:20], local.Addr().AsSlice())
	copy(id[20:36], remote.Addr().AsSlice())
	ne.PutUint64(id[40:], ^uint64(0)) // no cookie
	return b
}

func diagAnswer(b []byte) (uid uint32, err error) {
	ne := binary.NativeEndian
	if len(b) < unix.SizeofNlMsghdr+4 {
		return 0, unix.EBADMSG
	}
	body := b[unix.SizeofNlMsghdr:]
	switch ne.Uint16(b[4:]) {
	case sockDiagByFamily:
	case unix.NLMSG_ERROR:
		return 0, unix.Errno(-int32(ne.Uint32(body)))
	default:
		return 0, unix.EBADMSG
	}
	if len(body) < diagAnswerLen {
		return 0, unix.EBADMSG
	}
	if ne.Uint32(body[68:]) == 0 { // inode: its program has closed it, and the user is nobody's
		return 0, unix.ENOENT
	}
	return ne.Uint32(body[64:]), nil
}
