package relay

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
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
// The world is stopped all the time, so that signals interrupt system calls.
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
	var workers, signals sync.WaitGroup
	signals.Go(func() {
		var stats runtime.MemStats
		for time.Now().Before(end) && !t.Failed() {
			runtime.ReadMemStats(&stats)
			time.Sleep(time.Millisecond)
		}
	})
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
	signals.Wait()
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
				if _, err := sendAll(from, left[:n]); err != nil {
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
			got, buf := make([]byte, 0, size), make([]byte, 1+size/200+rd.IntN(1<<rd.IntN(18)))
			var m int
			var err error
			for len(got) <= 2*size && !(rude && to == fa && len(got) > size/2) {
				if m, err = unix.Read(to, buf); m <= 0 || err != nil {
					break
				}
				got = append(got, buf[:m]...)
				pause(rd)
			}
			want := data
			if rude {
				want, err = data[:min(len(got), size)], nil
			}
			if wrong := difference(want, got); err != nil || wrong != "" {
				t.Errorf("%d of %d bytes came, then %v: %s", len(got), size, err, wrong)
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

// sendAll sends all of p to a socket that blocks. A signal, such as those by
// which the runtime preempts, ends a call that has sent a part already.
func sendAll(fd int, p []byte) (done int, err error) {
	for done < len(p) {
		n, err := unix.SendmsgN(fd, p[done:], nil, nil, unix.MSG_NOSIGNAL)
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// difference says in what got differs first from data, "" if in nothing: by
// what is missing, by what came again or too early, or by what is foreign.
func difference(data, got []byte) string {
	at := 0
	for at < len(data) && at < len(got) && data[at] == got[at] {
		at++
	}
	next := got[at:min(at+64, len(got))]
	from := bytes.Index(data, next)
	if i := bytes.Index(data[at:], next); i >= 0 {
		from = at + i
	}
	switch {
	case at == len(data) && at == len(got):
		return ""
	case at == len(got):
		return fmt.Sprintf("the last %d bytes are missing", len(data)-at)
	case from < 0:
		return fmt.Sprintf("foreign bytes from %d on, such as %x", at, next)
	case from > at:
		return fmt.Sprintf("%d bytes are missing from %d on", from-at, at)
	}
	return fmt.Sprintf("at %d those from %d on came again", at, from)
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

// TestSendAll interrupts a send that has sent a part and waits for room.
func TestSendAll(t *testing.T) {
	fd, c := pairOf(t)
	defer unix.Close(fd)
	defer c.Close()
	data := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	thread, sent := make(chan int), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		_, err := sendAll(fd, data)
		_ = unix.Shutdown(fd, unix.SHUT_WR)
		sent <- err
	}()
	tid := <-thread
	for range 50 {
		time.Sleep(time.Millisecond)
		if err := unix.Tgkill(unix.Getpid(), tid, unix.SIGURG); err != nil {
			t.Fatal(err)
		}
	}
	got, err := io.ReadAll(c)
	if wrong := difference(data, got); err != nil || wrong != "" {
		t.Errorf("%d bytes came, then %v: %s", len(got), err, wrong)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestDifference(t *testing.T) {
	data := make([]byte, 1000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	for _, c := range []struct {
		got  []byte
		want string
	}{
		{data, ""},
		{data[:900], "the last 100 bytes are missing"},
		{slices.Concat(data[:300], data[340:]), "40 bytes are missing from 300 on"},
		{slices.Concat(data[:300], data[260:]), "at 300 those from 260 on came again"},
		{slices.Concat(data, data[:1]), "at 1000 those from 0 on came again"},
		{slices.Concat(data[:300], make([]byte, 2), data[300:302]), "foreign bytes from 300 on, such as 0000" + fmt.Sprintf("%x", data[300:302])},
	} {
		if got := difference(data, c.got); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
