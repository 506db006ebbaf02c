package supervise

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Of include/uapi/linux/unix_diag.h and sock_diag.h.
const (
	sockDiagByFamily = 20
	udiagShowPeer    = 4
	unixDiagPeer     = 2
)

// peerInode asks the kernel for the inode of the socket that c is connected to.
func peerInode(c int) (uint32, error) {
	var st unix.Stat_t
	if err := unix.Fstat(c, &st); err != nil {
		return 0, err
	}
	return peerOf(st.Ino)
}

// peerOf asks the kernel for the inode of the socket that the one with the inode
// own is connected to (sock_diag(7), CONFIG_UNIX_DIAG): 0 if that was not
// accepted yet.
func peerOf(own uint64) (uint32, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	// The answer is there when sendto returns; the bound is for a kernel that has
	// to load the module first.
	tv := unix.NsecToTimeval(int64(time.Second))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return 0, os.NewSyscallError("setsockopt", err)
	}
	ne := binary.NativeEndian
	req := make([]byte, 16+24) // struct nlmsghdr, struct unix_diag_req
	ne.PutUint32(req[0:], uint32(len(req)))
	ne.PutUint16(req[4:], sockDiagByFamily)
	ne.PutUint16(req[6:], unix.NLM_F_REQUEST)
	req[16] = unix.AF_UNIX
	ne.PutUint32(req[20:], ^uint32(0)) // all states
	ne.PutUint32(req[24:], uint32(own))
	ne.PutUint32(req[28:], udiagShowPeer)
	ne.PutUint64(req[32:], ^uint64(0)) // no cookie
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, 4096)
	m, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return 0, os.NewSyscallError("recvfrom", err)
	}
	return diagPeer(buf[:m])
}

// diagPeer takes the attribute UNIX_DIAG_PEER from an answer.
func diagPeer(b []byte) (uint32, error) {
	ne := binary.NativeEndian
	const body = 16 + 16 // struct nlmsghdr, struct unix_diag_msg
	if len(b) < 20 {
		return 0, fmt.Errorf("answer of %d bytes", len(b))
	}
	if typ := ne.Uint16(b[4:]); typ != sockDiagByFamily {
		if typ == unix.NLMSG_ERROR {
			return 0, fmt.Errorf("sock_diag: %w", unix.Errno(-int32(ne.Uint32(b[16:]))))
		}
		return 0, fmt.Errorf("answer of type %d", typ)
	}
	for a := b[min(body, len(b)):]; len(a) >= 4; {
		size := int(ne.Uint16(a))
		if size < 4 || size > len(a) {
			break
		}
		if ne.Uint16(a[2:]) == unixDiagPeer && size >= 8 {
			return ne.Uint32(a[4:]), nil
		}
		a = a[min((size+3)&^3, len(a)):]
	}
	return 0, fmt.Errorf("no peer")
}
