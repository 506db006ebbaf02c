package relay

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"drvsock/internal/link"
	"drvsock/internal/wire"

	"golang.org/x/sys/unix"
)

// TestBulk sends much both ways, in writes of all sizes, so that copying and
// splicing take turns, to readers that fall behind now and then, so that what
// was spliced has to queue.
func TestBulk(t *testing.T) {
	size := 48 << 20
	if testing.Short() {
		size = 8 << 20
	}
	r := relayed(t)
	a, b := os.NewFile(uintptr(r.a.fd), "a"), os.NewFile(uintptr(r.b.fd), "b")
	defer a.Close()
	defer b.Close()
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	var wg sync.WaitGroup
	for i, p := range [][2]*os.File{{a, b}, {b, a}} {
		rng := rand.New(rand.NewPCG(2, uint64(i)))
		pause := rand.New(rand.NewPCG(3, uint64(i)))
		wg.Go(func() {
			for left := data; len(left) > 0; {
				n := min(len(left), 1+rng.IntN(1<<rng.IntN(19)))
				if _, err := p[0].Write(left[:n]); err != nil {
					t.Errorf("write: %v", err)
					return
				}
				left = left[n:]
			}
		})
		wg.Go(func() {
			h, buf := sha256.New(), make([]byte, 100_000)
			for done := 0; done < size; {
				n, err := p[1].Read(buf)
				if err != nil {
					t.Errorf("read after %d bytes: %v", done, err)
					return
				}
				h.Write(buf[:n])
				done += n
				if pause.IntN(300) == 0 {
					time.Sleep(2 * time.Millisecond)
				}
			}
			if want := sha256.Sum256(data); !bytes.Equal(h.Sum(nil), want[:]) {
				t.Error("other bytes came than were sent")
			}
		})
	}
	wg.Wait()
	r.stop()
}

// spliceable makes a socket of which the test is the reactor, with its program's end and
// the far end of its stream. It skips where nothing is spliced.
func spliceable(t *testing.T) (s *socket, program int, far *link.Stream) {
	t.Helper()
	g, a, streams := pipes(t)
	near, _, err := g.Open(t.Context(), connect)
	if err != nil {
		t.Fatal(err)
	}
	far = <-streams
	program, c := connected(t)
	s = new(socket)
	t.Cleanup(func() {
		s.close()
		_ = unix.Close(program)
		_ = g.Close()
		_ = a.Close()
	})
	if err := s.init(c, near, true); err != nil {
		t.Fatal(err)
	}
	if s.rights {
		t.Skip("this kernel has no SO_PASSRIGHTS, so descriptors are looked for and nothing is spliced")
	}
	return s, program, far
}

// TestSpliceMoves wants the steps of a splice to have happened: bytes through
// the private pipe, as many as were sent, and none left.
func TestSpliceMoves(t *testing.T) {
	s, fd, s2 := spliceable(t)
	want := bytes.Repeat([]byte("0123456789abcdef"), 40<<10/16)
	if err := unix.Send(fd, want, 0); err != nil {
		t.Fatal(err)
	}
	r := &reactor{}
	defer r.between.close()
	got := make([]byte, len(want))
	why, more, ok := s.splice(r, 64<<10)
	if !ok || !more || why != (carried{}) || r.between.size == 0 {
		t.Fatalf("splice: %v, more %v, done %v, pipe of %d", why, more, ok, r.between.size)
	}
	_ = s2.SetReadDeadline(time.Now().Add(5 * time.Second))
	first, err := s2.Read(got)
	if err != nil || first == 0 || !bytes.Equal(got[:first], want[:first]) {
		t.Fatalf("%d bytes, %v, want the first of what was sent", first, err)
	}
	if n, err := unix.Read(r.between.r, got); err != unix.EAGAIN {
		t.Errorf("the private pipe still held %d bytes, %v", n, err)
	}
	why, more, ok = s.splice(r, 1)
	if ok && (!more || why != (carried{})) {
		t.Errorf("splice of one byte: %v, more %v", why, more)
	}
	_ = unix.Shutdown(fd, unix.SHUT_WR)
	s.bulk = true
	for range 100 {
		if _, _, ok = s.splice(r, 64<<10); !ok {
			break
		}
	}
	if ok || s.bulk {
		t.Error("it splices at the end, of which read(2) tells")
	}
	if why, more := s.move(); more || why.read != io.EOF {
		t.Errorf("at the end: %v, more %v, want %v", why, more, io.EOF)
	}
}

// TestSpliceFrames moves more than a frame at once, and no multiple of one; once the far
// side reads no more, what is left in the private pipe goes nowhere, and the pipe with it.
func TestSpliceFrames(t *testing.T) {
	s, fd, s2 := spliceable(t)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 300_000)
	_, _ = rand.NewChaCha8([32]byte{4}).Read(data)
	written := 0
	for written < len(data) {
		n, err := unix.SendmsgN(fd, data[written:], nil, nil, unix.MSG_DONTWAIT)
		if err != nil {
			break // net.core.wmem_max bounds what is ahead
		}
		written += n
	}
	const limit = 2*wire.MaxData + 7
	if written < limit+wire.MaxData {
		t.Skipf("%d bytes can be written ahead", written)
	}
	r := &reactor{}
	defer r.between.close()
	for _, alone := range []bool{true, false} {
		want := wire.MaxData
		r.moved(false)
		if alone {
			want = limit
			for range bulkOnly {
				r.moved(true)
			}
		}
		if why, more, ok := s.splice(r, limit); !ok || !more || why != (carried{}) {
			t.Fatalf("alone %v: %v, more %v, done %v", alone, why, more, ok)
		}
		got := make([]byte, want)
		_ = s2.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.ReadFull(s2, got); err != nil || !bytes.Equal(got, data[:want]) {
			t.Fatalf("alone %v: %v, or not the %d bytes that were sent", alone, err, want)
		}
		data = data[want:]
	}
	if err := s2.CloseRead(errUnread); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); s.s.TryCredit() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("STOP does not arrive")
		}
	}
	r.bulk = bulkOnly
	if why, more, ok := s.splice(r, limit); !ok || more || why.send == nil {
		t.Errorf("after STOP: %v, more %v, done %v", why, more, ok)
	}
	if r.between.size != 0 {
		t.Error("the private pipe is kept with what it holds")
	}
}

// TestSpliceToClosed splices to a socket whose peer is gone: an error, and no
// signal that ends the process.
func TestSpliceToClosed(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	_ = unix.Close(fds[1])
	p := (&reactor{}).pipe()
	defer p.close()
	if _, err := unix.Write(p.w, make([]byte, 40<<10)); err != nil {
		t.Fatal(err)
	}
	s := socket{fd: fds[0]}
	if n, err := s.trySplice(p.r, 40<<10); n != 0 || err != unix.EPIPE {
		t.Errorf("got %d, %v, want %v", n, err, unix.EPIPE)
	}
}
