package mount

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Of include/uapi/linux/unix_diag.h and sock_diag.h.
const (
	sockDiagByFamily = 20
	udiagShowVFS     = 2
	udiagShowPeer    = 4
	udiagShowRqlen   = 16
	unixDiagVFS      = 1
	unixDiagPeer     = 2
	unixDiagRqlen    = 4
	tcpListen        = 10 // state of a listening socket, of tcp_states.h
)

// A seen is a socket as sock_diag(7) shows it.
type seen struct {
	inode    uint32 // of the socket itself
	cookie   [2]uint32
	listens  bool
	backlog  uint32
	vfsInode uint32 // of the file that it is bound to, the lower half
	vfsDev   uint32 // device of that file as the kernel numbers it
	peer     uint32 // inode of the socket that it is connected to
}

// diag asks the kernel about the Unix sockets of one network namespace. It may
// be used by several goroutines.
type diag struct {
	mu  sync.Mutex
	fd  int
	buf []byte
}

// newDiag opens one for the network namespace of thread tid, 0 for our own.
func newDiag(tid int) (*diag, error) {
	open := func() (int, error) {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
		return fd, os.NewSyscallError("socket", err)
	}
	var fd int
	var err error
	if tid == 0 {
		fd, err = open()
	} else {
		fd, err = inNetwork(tid, open)
	}
	if err != nil {
		return nil, err
	}
	// The answer is there when sendto returns; the bound is for a kernel that has
	// to load the module first.
	tv := unix.NsecToTimeval(int64(time.Second))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("setsockopt", err)
	}
	return &diag{fd: fd, buf: make([]byte, 32<<10)}, nil
}

// inNetwork calls fn in the network namespace of thread tid.
func inNetwork(tid int, fn func() (int, error)) (int, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", tid))
	if err != nil {
		return -1, err
	}
	defer ns.Close()
	type result struct {
		fd  int
		err error
	}
	done := make(chan result, 1)
	onThread(func() {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{-1, os.NewSyscallError("setns", err)}
			return
		}
		fd, err := fn()
		done <- result{fd, err}
	})
	r := <-done
	return r.fd, r.err
}

func (d *diag) close() { _ = unix.Close(d.fd) }

// all calls fn for each Unix socket of the namespace.
func (d *diag) all(fn func(*seen)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.ask(unix.NLM_F_DUMP, 0, anyCookie); err != nil {
		return err
	}
	for {
		done, err := d.answer(fn)
		if done || err != nil {
			return err
		}
	}
}

// anyCookie is for a socket that was not seen yet.
var anyCookie = [2]uint32{^uint32(0), ^uint32(0)}

// one returns the socket with this inode. The error is unix.ENOENT if there is
// none.
//
// The kernel looks through its lists of sockets one after the other
// (unix_lookup_by_ino), and bind moves a socket from one list to another: it is
// missed if it moves from one that is still to come to one that is over. It moves
// once in its life, so who is missed twice is not there.
func (d *diag) one(inode uint32, cookie [2]uint32) (s seen, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s, err = d.look(inode, cookie); err == unix.ENOENT {
		s, err = d.look(inode, cookie)
	}
	return s, err
}

// look is one try of one; d.mu is held.
func (d *diag) look(inode uint32, cookie [2]uint32) (s seen, err error) {
	if err := d.ask(0, inode, cookie); err != nil {
		return s, err
	}
	_, err = d.answer(func(got *seen) { s = *got })
	if err == unix.ESTALE { // of that inode, but another one
		err = unix.ENOENT
	}
	return s, err
}

func (d *diag) ask(flags uint16, inode uint32, cookie [2]uint32) error {
	ne := binary.NativeEndian
	req := make([]byte, 16+24) // struct nlmsghdr, struct unix_diag_req
	ne.PutUint32(req[0:], uint32(len(req)))
	ne.PutUint16(req[4:], sockDiagByFamily)
	ne.PutUint16(req[6:], unix.NLM_F_REQUEST|flags)
	req[16] = unix.AF_UNIX
	ne.PutUint32(req[20:], ^uint32(0)) // all states
	ne.PutUint32(req[24:], inode)
	ne.PutUint32(req[28:], udiagShowVFS|udiagShowPeer|udiagShowRqlen)
	ne.PutUint32(req[32:], cookie[0])
	ne.PutUint32(req[36:], cookie[1])
	return os.NewSyscallError("sendto", unix.Sendto(d.fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
}

// answer reads one datagram of answers.
func (d *diag) answer(fn func(*seen)) (done bool, err error) {
	var n int
	for {
		n, _, err = unix.Recvfrom(d.fd, d.buf, 0)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return true, os.NewSyscallError("recvfrom", err)
	}
	return parseDiag(d.buf[:n], fn)
}

// parseDiag reads the messages of one datagram. The error that sock_diag answers
// with is returned bare.
func parseDiag(b []byte, fn func(*seen)) (done bool, err error) {
	ne := binary.NativeEndian
	for len(b) >= 16 { // struct nlmsghdr
		size := int(ne.Uint32(b))
		if size < 16 || size > len(b) {
			return true, fmt.Errorf("answer of sock_diag: length %d", size)
		}
		msg := b[16:size]
		switch ne.Uint16(b[4:]) {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(msg) < 4 {
				return true, fmt.Errorf("answer of sock_diag: error of %d bytes", len(msg))
			}
			if e := -int32(ne.Uint32(msg)); e != 0 {
				return true, unix.Errno(e)
			}
			return true, nil
		case sockDiagByFamily:
			var s seen
			if !s.parse(msg) {
				return true, fmt.Errorf("answer of sock_diag: %d bytes", len(msg))
			}
			fn(&s)
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return false, nil
}

// parse reads struct unix_diag_msg and what follows it.
func (s *seen) parse(b []byte) bool {
	const head = 16 // family, type, state, padding, inode, cookie
	if len(b) < head {
		return false
	}
	ne := binary.NativeEndian
	s.listens = b[2] == tcpListen
	s.inode = ne.Uint32(b[4:])
	s.cookie = [2]uint32{ne.Uint32(b[8:]), ne.Uint32(b[12:])}
	for a := b[head:]; len(a) >= 4; {
		size := int(ne.Uint16(a))
		if size < 4 || size > len(a) {
			return false
		}
		switch v := a[4:size]; ne.Uint16(a[2:]) {
		case unixDiagVFS:
			if len(v) >= 8 {
				s.vfsInode, s.vfsDev = ne.Uint32(v), ne.Uint32(v[4:])
			}
		case unixDiagPeer:
			if len(v) >= 4 {
				s.peer = ne.Uint32(v)
			}
		case unixDiagRqlen:
			if len(v) >= 8 {
				s.backlog = ne.Uint32(v[4:]) // of a listener: its limit
			}
		}
		a = a[min((size+3)&^3, len(a)):]
	}
	return true
}

// peerInode asks, in the network namespace of thread tid, 0 for our own, for the inode
// of the socket that the one with the inode own is connected to: 0 if that was not
// accepted yet.
func peerInode(tid int, own uint32) (uint32, error) {
	d, err := newDiag(tid)
	if err != nil {
		return 0, err
	}
	defer d.close()
	s, err := d.one(own, anyCookie)
	return s.peer, err
}
