package relay

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"drvsock/internal/afunix"
)

// TestEarlyDescriptors sends a descriptor before the relay begins, as a program may do
// as soon as it has connected. A listener that refuses them has the sender told so;
// elsewhere the connection breaks. What came along with it never arrives alone.
func TestEarlyDescriptors(t *testing.T) {
	for _, local := range []bool{false, true} {
		for _, refuse := range []bool{true, false} {
			var sent error
			send := func(fd int) {
				sent = errors.Join(sent, unix.Sendmsg(fd, []byte("fd"), unix.UnixRights(0), nil, unix.MSG_NOSIGNAL))
			}
			var r *bench
			if local {
				r, _, _ = localBy(t, refuse, send)
			} else {
				r = relayedWith(t, refuse, send)
			}
			if refuse && errors.Is(sent, unix.EPERM) {
				sent = nil // of both
				r.a.write("x")
				r.b.read(1)
				if got, want := r.b.log, []string{`read "x"`}; len(got) != 1 || got[0] != want[0] {
					t.Errorf("local %v: got %q, want %q", local, got, want)
				}
			} else {
				if sent != nil {
					t.Fatal(sent)
				}
				// So does a kernel that can't refuse.
				for _, e := range []*end{r.a, r.b} {
					_ = unix.SetsockoptTimeval(e.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
					if n, _, err := unix.Recvfrom(e.fd, make([]byte, 10), 0); n > 0 || errors.Is(err, unix.EAGAIN) {
						t.Errorf("local %v: read: %d, %v, want neither bytes nor patience", local, n, err)
					}
				}
			}
			r.a.close()
			r.b.close()
			r.stop()
		}
	}
}

// TestInherited wants connections to be as their listener: nothing tells of what was
// queued before somebody looked.
func TestInherited(t *testing.T) {
	fd, c := connected(t)
	defer unix.Close(fd)
	defer c.Close()
	none := false
	if err := afunix.Control(c, func(fd int) error { none = afunix.RefuseRights(fd); return nil }); err != nil {
		t.Fatal(err)
	}
	err := unix.Sendmsg(fd, []byte("fd"), unix.UnixRights(0), nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	if none != errors.Is(err, unix.EPERM) {
		t.Errorf("none can have come: %v, but sendmsg gives %v", none, err)
	}
}
