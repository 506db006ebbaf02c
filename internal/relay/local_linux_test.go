package relay

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// localTo makes program, Local, program. close ends it from outside.
func localTo(tb testing.TB) (b *bench, tally *Tally, result chan error) {
	return localBy(tb, true)
}

// localBy is localTo with listeners that refuse descriptors, or don't. Before Local
// begins, before is called with each program's socket.
func localBy(tb testing.TB, refuse bool, before ...func(fd int)) (b *bench, tally *Tally, result chan error) {
	fd1, c1 := connectedBy(tb, refuse)
	fd2, c2 := connectedBy(tb, refuse)
	for _, f := range before {
		f(fd1)
		f(fd2)
	}
	tally, result = new(Tally), make(chan error, 1)
	go func() { result <- Local(c1, c2, tally) }()
	return &bench{a: &end{fd: fd1}, b: &end{fd: fd2}, stop: func() {
		select {
		case err := <-result:
			result <- err
		case <-time.After(5 * time.Second):
			tb.Error("Local outlives its programs")
			_ = c1.Close()
			_ = c2.Close()
		}
	}}, tally, result
}

func localOnly(tb testing.TB) *bench {
	b, _, _ := localTo(tb)
	return b
}

// taken are the scenarios in which a program closes without having read what
// Local has taken off the other's socket: the exception that it names.
var taken = map[string]bool{
	"close with unread bytes is a reset":   true,
	"answer, then close with unread bytes": true,
	"close while much is unread":           true,
}

// TestLocalAsTheOS compares with a socketpair, as TestAsTheOS does for Join.
func TestLocalAsTheOS(t *testing.T) {
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			asTheOS(t, sc.run, localOnly, func(want string) string {
				if taken[sc.name] {
					return strings.Replace(want, unix.ECONNRESET.Error(), "EOF", 1)
				}
				return want
			})
		})
	}
}

// TestLocalBytes sends much both ways at once, in pieces of all sizes.
func TestLocalBytes(t *testing.T) {
	b, tally, result := localTo(t)
	const size = 8 << 20
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	done := make(chan error, 4)
	for _, e := range []*end{b.a, b.b} {
		go func() {
			for rest := data; len(rest) > 0; {
				n := min(len(rest), 1+rand.IntN(200_000))
				if _, err := sendAll(e.fd, rest[:n]); err != nil {
					done <- err
					return
				}
				rest = rest[n:]
			}
			done <- unix.Shutdown(e.fd, unix.SHUT_WR)
		}()
		go func() {
			got := make([]byte, 0, size)
			p := make([]byte, 100_000)
			for {
				n, err := unix.Read(e.fd, p[:1+rand.IntN(len(p))])
				if err != nil {
					done <- err
					return
				}
				if n == 0 {
					break
				}
				got = append(got, p[:n]...)
			}
			if !bytes.Equal(got, data) {
				done <- errors.New("other bytes came")
				return
			}
			done <- nil
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	b.a.close()
	b.b.close()
	if err := <-result; err != nil {
		t.Error(err)
	}
	if a, c := tally.AToB.Load(), tally.BToA.Load(); a != size || c != size {
		t.Errorf("counted %d and %d bytes, want %d", a, c, size)
	}
}

// TestLocalClose: closing from outside ends it.
func TestLocalClose(t *testing.T) {
	for _, busy := range []bool{false, true} {
		fd1, c1 := connected(t)
		fd2, c2 := connected(t)
		result := make(chan error, 1)
		go func() { result <- Local(c1, c2, nil) }()
		if busy { // until both sockets are full
			for deadline := time.Now().Add(200 * time.Millisecond); time.Now().Before(deadline); {
				_ = unix.Sendto(fd1, make([]byte, 1000), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
			}
		}
		time.Sleep(10 * time.Millisecond)
		_ = c1.Close()
		_ = c2.Close()
		select {
		case <-result:
		case <-time.After(5 * time.Second):
			t.Fatal("it goes on")
		}
		_ = unix.Close(fd1)
		_ = unix.Close(fd2)
	}
}

// TestLocalTCP: a program that closes with bytes unread is a reset for one on
// TCP too.
func TestLocalTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	fd, c := connected(t)
	result := make(chan error, 1)
	go func() { result <- Local(server.(*net.TCPConn), c, nil) }()
	if _, err = io.WriteString(client, "unread"); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000); n != 1 {
		t.Fatalf("nothing arrives: %v", err)
	}
	_ = unix.Close(fd)
	_ = client.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err = client.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("client reads %v, want ECONNRESET", err)
	}
	if err := <-result; !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("Local ends with %v, want ECONNRESET", err)
	}
}
