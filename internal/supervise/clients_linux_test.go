package supervise

import (
	"testing"

	"golang.org/x/sys/unix"

	"drvsock/internal/lookup"
)

func inode(t testing.TB, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func pair(t testing.TB) [2]int {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Close(p[0])
		_ = unix.Close(p[1])
	})
	return p
}

func TestPeerInode(t *testing.T) {
	p := pair(t)
	got, err := peerInode(p[0])
	if err != nil {
		t.Fatal(err)
	}
	if want := uint32(inode(t, p[1])); got != want {
		t.Errorf("got inode %d, want %d", got, want)
	}
	lone, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(lone)
	if got, err := peerInode(lone); err == nil {
		t.Errorf("a socket without a peer: got inode %d, want an error", got)
	}
}

func TestClientsForgetTheOldest(t *testing.T) {
	var k clients
	p := pair(t)
	k.note(p[0], &lookup.Task{TGID: 7, EUID: 8, EGID: 9})
	first := uint32(inode(t, p[0]))
	if got, ok := k.of(first); !ok || got != (unix.Ucred{Pid: 7, Uid: 8, Gid: 9}) {
		t.Fatalf("got %+v, %v", got, ok)
	}
	// Inode numbers that no socket of this test has.
	for i := range uint32(maxClients) {
		k.order = append(k.order, ^i)
		k.by[^i] = unix.Ucred{}
	}
	k.note(p[1], &lookup.Task{TGID: 1})
	if _, ok := k.of(first); ok {
		t.Error("the oldest client is remembered past the bound")
	}
	if _, ok := k.of(uint32(inode(t, p[1]))); !ok {
		t.Error("the newest client is forgotten")
	}
}

func FuzzDiagPeer(f *testing.F) {
	b := make([]byte, 48)
	b[0], b[4], b[32], b[34], b[36] = 40, sockDiagByFamily, 8, unixDiagPeer, 77
	f.Add(b)
	if got, err := diagPeer(b); err != nil || got != 77 {
		f.Fatalf("got %d, %v, want 77", got, err)
	}
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = diagPeer(b) })
}
