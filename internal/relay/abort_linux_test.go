package relay

import (
	"errors"
	"io"
	"testing"
	"time"

	"drvsock/internal/errno"
	"drvsock/internal/link"

	"golang.org/x/sys/unix"
)

// slow is an aborter that takes its time.
type slow struct {
	aborter
	asked, free chan struct{}
}

func (s slow) Abort() {
	close(s.asked)
	<-s.free
	s.aborter.Abort()
}

// TestSlowAbort has a program be told of a failure, which takes long, and another
// stream of the link go on meanwhile.
func TestSlowAbort(t *testing.T) {
	for _, tt := range []struct {
		name string
		fail func(far *link.Stream)
	}{
		{"stopped", func(far *link.Stream) {
			_ = far.CloseRead(errno.Errorf(errno.ECONNRESET, errno.LayerUnknown, "closed before it had read everything"))
		}},
		{"reset", func(far *link.Stream) { far.Reset(errno.ECONNRESET) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, a, streams := pipes(t)
			ended := make(chan error, 2)
			open := func(conn func(aborter) Conn) (program int, far *link.Stream) {
				near, _, err := g.Open(t.Context(), connect)
				if err != nil {
					t.Fatal(err)
				}
				far = <-streams
				fd, c := connected(t)
				t.Cleanup(func() { _ = unix.Close(fd) })
				go func() { ended <- join(conn(aborter{c, fd}), near, true) }()
				return fd, far
			}
			s := slow{asked: make(chan struct{}), free: make(chan struct{})}
			failing, far := open(func(a aborter) Conn { s.aborter = a; return s })
			other, farOther := open(func(a aborter) Conn { return a })

			tt.fail(far)
			select {
			case <-s.asked:
			case <-time.After(10 * time.Second):
				t.Fatal("the program is not told")
			}
			_ = far.CloseWrite()
			if _, err := farOther.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			_ = unix.SetsockoptTimeval(other, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
			b := make([]byte, 10)
			if n, _, err := unix.Recvfrom(other, b, 0); n != 1 || err != nil {
				t.Errorf("the other program reads %d, %v", n, err)
			}
			close(s.free)
			_ = unix.SetsockoptTimeval(failing, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
			if n, _, err := unix.Recvfrom(failing, b, 0); err != unix.ECONNRESET {
				t.Errorf("the program reads %d, %v, want %v", n, err, unix.ECONNRESET)
			}
			if err := farOther.CloseWrite(); err != nil {
				t.Error(err)
			}
			_ = unix.Shutdown(other, unix.SHUT_WR)
			if _, err := io.Copy(io.Discard, farOther); err != nil {
				t.Error(err)
			}
			_ = farOther.Close()
			for range 2 {
				if err := <-ended; err != nil && !errors.Is(err, errno.ECONNRESET) {
					t.Error(err)
				}
			}
			_, _ = g.Close(), a.Close()
		})
	}
}
