package relay

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"drvsock/internal/link"

	"golang.org/x/sys/unix"
)

// hung is how long a connection of TestStress may take.
const hung = 30 * time.Second

// TestStress has connections come and go on one link: each carries up to 1 MiB
// each way, in pieces of all sizes, to readers that pause, and ends its
// directions at moments of its own. Some are closed by one program in the midst.
// DRVSOCK_STRESS is how long, such as 5m.
func TestStress(t *testing.T) {
	d := 5 * time.Second
	if testing.Short() {
		d = time.Second
	}
	if v, err := time.ParseDuration(os.Getenv("DRVSOCK_STRESS")); err == nil {
		d = v
	}
	_ = unix.Close(warm(t)) // the runtime's poller has descriptors, too
	before := descriptors(t)
	g, a, streams := pipes(t)
	var opening sync.Mutex // so that both ends of a stream are found
	end := time.Now().Add(d)
	var workers sync.WaitGroup
	for w := range 12 {
		workers.Go(func() {
			rng := rand.New(rand.NewPCG(11, uint64(w)))
			for time.Now().Before(end) && !t.Failed() {
				opening.Lock()
				s1, _, err := g.Open(t.Context(), connect)
				if err != nil {
					opening.Unlock()
					t.Errorf("open: %v", err)
					return
				}
				s2 := <-streams
				opening.Unlock()
				stressOne(t, s1, s2, rng)
			}
		})
	}
	workers.Wait()
	if err := g.Err(); err != nil {
		t.Errorf("link ended: %v", err)
	}
	for _, l := range []*link.Link{g, a} {
		for stop := time.Now().Add(5 * time.Second); l.Streams() > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(stop) {
				t.Fatalf("%d streams are left", l.Streams())
			}
		}
		_ = l.Close()
	}
	for stop := time.Now().Add(5 * time.Second); descriptors(t) > before && time.Now().Before(stop); {
		time.Sleep(10 * time.Millisecond)
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// stressOne has one connection from its beginning to its end.
func stressOne(t *testing.T, s1, s2 *link.Stream, rng *rand.Rand) {
	fa, ca := pairOf(t)
	fb, cb := pairOf(t)
	var relays, programs sync.WaitGroup
	for _, r := range []struct {
		c Conn
		s *link.Stream
	}{{ca, s1}, {cb, s2}} {
		relays.Go(func() { _ = Join(r.c, r.s) }) // it may end in disorder
	}
	rude := rng.IntN(5) == 0 // one program closes without reading all
	fds := [2]int{fa, fb}
	for i := range fds {
		from, to := fds[i], fds[1-i]
		size := 1 + rng.IntN(1<<rng.IntN(21))
		data := make([]byte, size)
		_, _ = rand.NewChaCha8([32]byte{byte(rng.Uint32()), byte(rng.Uint32())}).Read(data)
		wr, rd := rand.New(rand.NewPCG(rng.Uint64(), 1)), rand.New(rand.NewPCG(rng.Uint64(), 2))
		keepOpen := rude && i == 0
		programs.Go(func() {
			piece := 1<<wr.IntN(21) + size/200 // not too many
			for left := data; len(left) > 0; {
				n := min(len(left), 1+wr.IntN(piece), 1+len(data)/4)
				if _, err := unix.SendmsgN(from, left[:n], nil, nil, unix.MSG_NOSIGNAL); err != nil {
					if !rude {
						t.Errorf("write: %v", err)
					}
					return
				}
				left = left[n:]
				pause(wr)
			}
			if !keepOpen {
				_ = unix.Shutdown(from, unix.SHUT_WR)
			}
		})
		programs.Go(func() {
			got, buf := sha256.New(), make([]byte, 1+size/200+rd.IntN(1<<rd.IntN(18)))
			n := 0
			for {
				m, err := unix.Read(to, buf)
				if m <= 0 || err != nil {
					if want := sha256.Sum256(data); !rude && (err != nil || !bytes.Equal(got.Sum(nil), want[:])) {
						t.Errorf("%d of %d bytes came, or others, %v", n, size, err)
					}
					break
				}
				got.Write(buf[:m])
				if n += m; !bytes.HasPrefix(data[n-m:], buf[:m]) {
					t.Errorf("other bytes than were sent before byte %d of %d", n, size)
				}
				if rude && to == fa && n > size/2 {
					_ = unix.Shutdown(fa, unix.SHUT_RDWR)
					break
				}
				pause(rd)
			}
			if rude && to == fa {
				_ = unix.Shutdown(fa, unix.SHUT_RDWR)
			}
		})
	}
	over := make(chan struct{})
	go func() {
		programs.Wait()
		_ = unix.Close(fa)
		_ = unix.Close(fb)
		relays.Wait()
		close(over)
	}()
	select {
	case <-over:
	case <-time.After(hung):
		t.Error("a connection hangs")
	}
}

func pause(rng *rand.Rand) {
	if rng.IntN(50) == 0 {
		time.Sleep(time.Duration(rng.IntN(3000)) * time.Microsecond)
	}
}

// pairOf is a program's socket and the other's, by socketpair(2).
func pairOf(t *testing.T) (program int, peer Conn) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
		return -1, nil
	}
	f := os.NewFile(uintptr(fds[1]), "peer")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Error(err)
		return fds[0], nil
	}
	return fds[0], c.(*net.UnixConn)
}

// warm has the runtime's poller started.
func warm(t *testing.T) int {
	fd, c := pairOf(t)
	_ = c.Close()
	return fd
}
