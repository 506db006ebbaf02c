package relay

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPollsForStopped has a program poll for room while the other one reads no more,
// from the first moment on. Natively the first write fails. Here some bytes are under
// way until that is known, and what lies in the relay's socket by then must not keep
// the program waiting: shutdown(SHUT_RD) makes no room.
func TestPollsForStopped(t *testing.T) {
	b := make([]byte, 64<<10)
	for _, kind := range []struct {
		name string
		make func(testing.TB) *bench
	}{{"native", native}, {"relayed", relayed}, {"local", localOnly}} {
		t.Run(kind.name, func(t *testing.T) {
			for i := range 40 {
				r := kind.make(t)
				if err := unix.SetNonblock(r.a.fd, true); err != nil {
					t.Fatal(err)
				}
				if err := unix.Shutdown(r.b.fd, unix.SHUT_RD); err != nil {
					t.Fatal(err)
				}
				for sent := 0; ; {
					p := []unix.PollFd{{Fd: int32(r.a.fd), Events: unix.POLLOUT}}
					if n, err := unix.Poll(p, int(5*time.Second/time.Millisecond)); n == 0 && err == nil {
						t.Fatalf("try %d: no room and no error for 5 s, after %d bytes", i, sent)
					} else if err != nil {
						continue // EINTR
					}
					n, err := unix.SendmsgN(r.a.fd, b, nil, nil, unix.MSG_NOSIGNAL)
					if err == unix.EPIPE || err == unix.ECONNRESET {
						break
					}
					if err != nil && err != unix.EAGAIN {
						t.Fatalf("try %d: %v, want %v", i, err, unix.EPIPE)
					}
					if sent += max(n, 0); sent > 64<<20 {
						t.Fatalf("try %d: %d bytes to nobody", i, sent)
					}
				}
				r.a.close()
				r.b.close()
				r.stop()
			}
		})
	}
}
