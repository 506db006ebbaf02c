package supervise

import (
	"encoding/binary"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"drvsock/internal/lookup"
	"drvsock/internal/seccomp"
)

// maxClients bounds the native connections that are remembered. The oldest go
// first; their servers are then told what the kernel knows.
const maxClients = 1 << 14

// clients remembers for native connections within the tree which program made
// them. The kernel notes for SO_PEERCRED who carried connect(2) out: that was
// us, with the program's user and groups, so only the pid is to be mended.
type clients struct {
	mu    sync.Mutex
	by    map[uint32]unix.Ucred // by the inode of the connecting socket
	order []uint32              // as they came
}

// note remembers that task connects its socket, of which c is a copy. It comes
// before the connection does: a server asks as soon as it accepts.
func (k *clients) note(c int, task *lookup.Task) {
	var st unix.Stat_t
	if unix.Fstat(c, &st) != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.by == nil {
		k.by = map[uint32]unix.Ucred{}
	}
	ino := uint32(st.Ino) // as sock_diag has it
	if _, ok := k.by[ino]; !ok {
		k.order = append(k.order, ino)
	}
	k.by[ino] = unix.Ucred{Pid: int32(task.TGID), Uid: task.EUID, Gid: task.EGID}
	if len(k.order) > maxClients {
		delete(k.by, k.order[0])
		k.order = k.order[1:]
	}
}

// forget takes back a note of a connection that did not come about.
func (k *clients) forget(c int) {
	var st unix.Stat_t
	if unix.Fstat(c, &st) != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	ino := uint32(st.Ino)
	delete(k.by, ino)
	k.order = slices.DeleteFunc(k.order, func(i uint32) bool { return i == ino })
}

func (k *clients) of(ino uint32) (unix.Ucred, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, ok := k.by[ino]
	return c, ok
}

// peerCred answers getsockopt(SO_PEERCRED) where the kernel would name us for a
// client that we connected natively.
func (s *supervisor) peerCred(n seccomp.Notif, call seccomp.Call) error {
	c, err := seccomp.GetFD(n.TID, call.FD)
	if err != nil {
		return errNative
	}
	defer unix.Close(c)
	cred, err := unix.GetsockoptUcred(c, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || int(cred.Pid) != os.Getpid() {
		return errNative
	}
	ino, err := peerInode(c)
	if err != nil {
		s.log.Debug("peer of a socket unknown", "err", err)
		return errNative
	}
	client, ok := s.clients.of(ino)
	if !ok {
		return errNative
	}
	// As sk_getsockopt does it: the length says how much is wanted, and how
	// much there was.
	var size [4]byte
	if err := seccomp.ReadMemory(n.TID, call.LenAddr, size[:]); err != nil {
		return errNative
	}
	want := int32(binary.NativeEndian.Uint32(size[:]))
	if want < 0 {
		return errNative
	}
	var b [unix.SizeofUcred]byte
	binary.NativeEndian.PutUint32(b[0:], uint32(client.Pid))
	binary.NativeEndian.PutUint32(b[4:], client.Uid)
	binary.NativeEndian.PutUint32(b[8:], client.Gid)
	got := min(int(want), len(b))
	binary.NativeEndian.PutUint32(size[:], uint32(got))
	if !s.notify.Valid(n.ID) {
		return seccomp.ErrGone
	}
	if err := seccomp.WriteMemory(n.TID, call.Addr, b[:got]); err != nil {
		return errNative
	}
	if err := seccomp.WriteMemory(n.TID, call.LenAddr, size[:]); err != nil {
		return errNative
	}
	return nil
}
