package relay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"drvsock/internal/afunix"
	"drvsock/internal/link"
	"drvsock/internal/wire"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An end is a program's end of a connection: a bare blocking socket, so that
// nothing stands between the test and the kernel.
type end struct {
	fd       int
	log      []string
	patience time.Duration // of settle
}

func (e *end) note(format string, args ...any) {
	e.log = append(e.log, fmt.Sprintf(format, args...))
}

func (e *end) write(s string) {
	n, err := sendAll(e.fd, []byte(s))
	e.note("write %d %v", n, err)
}

// writeUntil writes until it fails, and notes how.
func (e *end) writeUntil() {
	for range 500 {
		if _, err := unix.SendmsgN(e.fd, []byte("x"), nil, nil, unix.MSG_NOSIGNAL); err != nil {
			e.note("write fails: %v", err)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	e.note("write never fails")
}

// read reads up to n bytes, together, and notes what came and how it ended.
func (e *end) read(n int) {
	got := make([]byte, 0, n)
	for len(got) < n {
		m, _, err := unix.Recvfrom(e.fd, got[len(got):n], 0)
		if err != nil {
			e.note("read %q %v", shorten(got), err)
			return
		}
		if m == 0 {
			e.note("read %q EOF", shorten(got))
			return
		}
		got = got[:len(got)+m]
	}
	e.note("read %q", shorten(got))
}

func shorten(b []byte) string {
	if len(b) < 100 {
		return string(b)
	}
	return fmt.Sprintf("%d bytes", len(b))
}

func (e *end) shutdown(how int) { e.note("shutdown %v", unix.Shutdown(e.fd, how)) }

func (e *end) close() {
	_ = unix.Close(e.fd)
	e.fd = -1
}

// poll waits for any of the events and notes those that came.
func (e *end) poll(events int16) {
	p := []unix.PollFd{{Fd: int32(e.fd), Events: events}}
	deadline := time.Now().Add(5 * time.Second)
	for {
		_, err := unix.Poll(p, 100)
		if p[0].Revents != 0 || time.Now().After(deadline) || err != nil && err != unix.EINTR {
			break
		}
	}
	e.note("poll %#x", p[0].Revents&(events|unix.POLLHUP|unix.POLLERR))
}

// connected makes two connected stream sockets: a program's, and the other's.
func connected(tb testing.TB) (program int, peer *net.UnixConn) {
	tb.Helper()
	return connectedBy(tb, true)
}

// connectedBy is connected by a listener that refuses descriptors, or doesn't.
func connectedBy(tb testing.TB, refuse bool) (program int, peer *net.UnixConn) {
	tb.Helper()
	dir, err := os.MkdirTemp("/tmp", "drvsock-relay-") // the test's own is too long for a socket where TMPDIR is
	if err != nil {
		tb.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	if refuse {
		_ = afunix.Control(ln, func(fd int) error { afunix.RefuseRights(fd); return nil })
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		tb.Fatal(err)
	}
	c, err := ln.AcceptUnix()
	if err != nil {
		tb.Fatal(err)
	}
	return fd, c
}

// aborter does what the supervisor does for ECONNRESET: closing a socket with
// unread bytes in it. Here the test's own copy of the program's socket writes
// the byte.
type aborter struct {
	*net.UnixConn
	program int
}

func (a aborter) Abort() { _ = unix.Sendto(a.program, []byte("!"), unix.MSG_NOSIGNAL, nil) }

// A bench is two programs that are connected in some way.
type bench struct {
	a, b *end
	stop func() // ends the relays
	cut  func() // cuts the link, nil natively
}

func native(tb testing.TB) *bench {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	return &bench{a: &end{fd: fds[0]}, b: &end{fd: fds[1]}, stop: func() {}}
}

func pipes(tb testing.TB) (g, a *link.Link, streams chan *link.Stream) {
	tb.Helper()
	return pipesBy(tb, func(rw io.ReadWriteCloser) io.ReadWriteCloser { return rw })
}

// pipesBy is pipes with an agent that has its transport by way of wrap.
func pipesBy(tb testing.TB, wrap func(io.ReadWriteCloser) io.ReadWriteCloser) (g, a *link.Link, streams chan *link.Stream) {
	tb.Helper()
	ar, bw, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	br, aw, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	x, err := link.Files(ar, aw)
	if err != nil {
		tb.Fatal(err)
	}
	y, err := link.Files(br, bw)
	if err != nil {
		tb.Fatal(err)
	}
	streams = make(chan *link.Stream, 1000)
	made := make(chan *link.Link, 1)
	go func() {
		l, err := link.New(wrap(y), link.Config{Role: wire.RoleAgent, Handler: func(in *link.Incoming) {
			if s, err := in.Accept(wire.Answer{}); err == nil {
				streams <- s
			}
		}})
		if err != nil {
			tb.Error(err)
		}
		made <- l
	}()
	g, err = link.New(x, link.Config{Role: wire.RoleGuest})
	a = <-made
	if err != nil || a == nil {
		tb.Fatalf("linking: %v", err)
	}
	return g, a, streams
}

var connect = wire.Request{Kind: wire.KindConnect, Path: []byte("x")}

// relayed makes program, relay, link, relay, program.
func relayed(tb testing.TB) *bench { return relayedWith(tb, true) }

// relayedWith is relayed where descriptors are refused, or looked for. Before the relay
// begins, before is called with each program's socket.
func relayedWith(tb testing.TB, passRights bool, before ...func(fd int)) *bench {
	g, a, streams := pipes(tb)
	s1, _, err := g.Open(tb.Context(), connect)
	if err != nil {
		tb.Fatal(err)
	}
	s2 := <-streams
	var wg sync.WaitGroup
	var ends [2]*end
	for i, s := range []*link.Stream{s1, s2} {
		fd, c := connectedBy(tb, passRights)
		ends[i] = &end{fd: fd}
		for _, first := range before {
			first(fd)
		}
		wg.Go(func() { _ = join(aborter{c, fd}, s, passRights) })
	}
	return &bench{a: ends[0], b: ends[1], cut: func() { _ = g.Close() }, stop: func() {
		_ = g.Close()
		_ = a.Close()
		done := make(chan struct{})
		go func() {
			wg.Wait()
			close(done)
		}()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			tb.Error("a relay outlives its link")
		}
	}}
}

// settle gives what one end did the time to reach the other one.
func settle() { (&end{}).settle() }

func (e *end) settle() { time.Sleep(50*time.Millisecond + e.patience) }

// asTheOS plays a scenario on a socketpair and on what make makes, and compares all
// that the two programs saw. adapt, if not nil, says what else is right. A busy
// machine may not settle in time, so what differs is played once more with patience.
func asTheOS(t *testing.T, run func(a, b *end), make func(testing.TB) *bench, adapt func(want string) string) {
	t.Helper()
	want := act(t, native(t), run, 0)
	if adapt != nil {
		want = adapt(want)
	}
	got := act(t, make(t), run, 0)
	if got != want {
		got = act(t, make(t), run, 2*time.Second)
	}
	if got != want {
		t.Errorf("got\n%s\nwant, as the OS has it,\n%s", got, want)
	}
}

// act plays a scenario and returns what the two programs saw.
func act(t *testing.T, b *bench, run func(a, b *end), patience time.Duration) string {
	t.Helper()
	defer b.stop()
	b.a.patience, b.b.patience = patience, patience
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(b.a, b.b)
	}()
	select {
	case <-done:
	case <-time.After(10*time.Second + 4*patience):
		for _, e := range []*end{b.a, b.b} {
			_ = unix.Shutdown(e.fd, unix.SHUT_RDWR)
		}
		<-done
		t.Error("hangs")
	}
	for _, e := range []*end{b.a, b.b} {
		if e.fd >= 0 {
			e.close()
		}
	}
	return "a: " + strings.Join(b.a.log, "; ") + "\nb: " + strings.Join(b.b.log, "; ")
}

var scenarios = []struct {
	name string
	run  func(a, b *end)
}{
	{"bytes both ways", func(a, b *end) {
		a.write("hello")
		b.read(5)
		b.write("world")
		a.read(5)
	}},
	{"half-close, answer, close", func(a, b *end) {
		a.write("question")
		a.shutdown(unix.SHUT_WR)
		b.read(100)
		b.write("answer")
		b.close()
		a.read(100)
		a.poll(unix.POLLIN | unix.POLLRDHUP)
	}},
	{"half-close the other way", func(a, b *end) {
		b.write("banner")
		b.shutdown(unix.SHUT_WR)
		a.read(100)
		a.poll(unix.POLLRDHUP)
		a.write("reply")
		b.read(5)
		a.close()
		b.read(100)
	}},
	{"full close is a hangup and EPIPE", func(a, b *end) {
		b.close()
		a.settle()
		a.poll(unix.POLLIN | unix.POLLRDHUP)
		a.read(10)
		a.write("x")
	}},
	{"full close after a half-close", func(a, b *end) {
		b.shutdown(unix.SHUT_WR)
		a.read(10)
		b.close()
		a.settle()
		a.poll(unix.POLLIN | unix.POLLRDHUP)
		a.write("x")
	}},
	{"full shutdown", func(a, b *end) {
		b.write("last")
		b.shutdown(unix.SHUT_RDWR)
		a.settle()
		a.poll(unix.POLLIN | unix.POLLRDHUP)
		a.read(100)
		a.write("x")
		b.poll(unix.POLLIN | unix.POLLRDHUP)
	}},
	{"close with unread bytes is a reset", func(a, b *end) {
		a.write("unread")
		a.settle()
		b.close()
		a.settle()
		a.read(10)
		a.write("x")
	}},
	{"answer, then close with unread bytes", func(a, b *end) {
		a.write("unread")
		a.settle()
		b.write("answer")
		b.close()
		a.settle()
		a.read(100)
		a.read(100)
		a.write("x")
	}},
	{"close while much is unread", func(a, b *end) {
		a.write(strings.Repeat("x", 100_000))
		a.settle()
		b.read(10)
		b.close()
		a.settle()
		a.read(10)
		a.write("x")
	}},
	{"reader that stops reading", func(a, b *end) {
		b.shutdown(unix.SHUT_RD)
		a.writeUntil()
		b.write("still here")
		a.read(10)
	}},
	{"bytes before a close arrive", func(a, b *end) {
		a.write(strings.Repeat("y", 150_000))
		a.close()
		a.settle()
		b.read(200_000)
		b.write("x")
	}},
	{"both half-close", func(a, b *end) {
		a.shutdown(unix.SHUT_WR)
		b.shutdown(unix.SHUT_WR)
		a.settle()
		a.read(1)
		b.read(1)
		a.poll(unix.POLLIN | unix.POLLRDHUP)
		b.poll(unix.POLLIN | unix.POLLRDHUP)
		a.write("x")
	}},
	{"out-of-order closes with bytes in flight", func(a, b *end) {
		a.write("one")
		b.write("two")
		a.read(3)
		b.read(3)
		a.shutdown(unix.SHUT_WR)
		b.read(10)
		b.write("three")
		a.settle()
		a.close()
		a.settle()
		b.write("four")
	}},
}

// TestAsTheOS runs each scenario on a socketpair and through two relays and a
// link, and compares all that the two programs saw.
func TestAsTheOS(t *testing.T) {
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			asTheOS(t, sc.run, relayed, nil)
		})
	}
}

func TestLostLinkIsAReset(t *testing.T) {
	b := relayed(t)
	defer b.stop()
	b.a.write("hello")
	b.b.read(5)
	b.cut()
	for _, e := range []*end{b.a, b.b} {
		n, _, err := unix.Recvfrom(e.fd, make([]byte, 10), 0)
		if !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("read after the link was lost: %d, %v, want ECONNRESET", n, err)
		}
		e.close()
	}
}

// TestDescriptors sends a descriptor: with SO_PASSRIGHTS the sender is told at
// once, without it the connection breaks. It never arrives as if nothing had
// been sent.
func TestDescriptors(t *testing.T) {
	for _, passRights := range []bool{true, false} {
		t.Run(fmt.Sprint(passRights), func(t *testing.T) {
			b := relayedWith(t, passRights)
			defer b.stop()
			b.a.write("x")
			b.b.read(1) // the relays are at work
			err := unix.Sendmsg(b.a.fd, []byte("fd"), unix.UnixRights(0), nil, unix.MSG_NOSIGNAL)
			if passRights && err == nil {
				probe, perr := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
				if perr != nil {
					t.Fatal(perr)
				}
				afunix.RefuseRights(probe[0])
				refuses := afunix.RefuseRights(probe[0])
				unix.Close(probe[0])
				unix.Close(probe[1])
				if !refuses {
					t.Skip("this kernel has no SO_PASSRIGHTS (Linux 6.16)")
				}
			}
			if passRights {
				if !errors.Is(err, unix.EPERM) {
					t.Errorf("sendmsg with a descriptor: %v, want EPERM", err)
				}
				b.a.write("y")
				b.b.read(1)
				if got, want := strings.Join(b.b.log, "; "), `read "x"; read "y"`; got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			} else {
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range []*end{b.a, b.b} {
					if n, _, err := unix.Recvfrom(e.fd, make([]byte, 10), 0); !errors.Is(err, unix.ECONNRESET) {
						t.Errorf("read: %d, %v, want ECONNRESET", n, err)
					}
				}
			}
			b.a.close()
			b.b.close()
		})
	}
}
