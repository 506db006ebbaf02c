package supervise

import (
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/link"
	"drvsock/internal/wire"
)

// TestLeave: a supervisor that ends waits for the agent to have closed the host's
// socket, and not for its link alone.
func TestLeave(t *testing.T) {
	a, b := net.Pipe()
	agent := make(chan *link.Link, 1)
	told, closed := make(chan struct{}), make(chan struct{})
	go func() {
		l, err := link.New(b, link.Config{Role: wire.RoleAgent, Handler: func(in *link.Incoming) {
			s, err := in.Accept(wire.Answer{})
			if err != nil {
				return
			}
			_, _ = io.ReadAll(s)
			close(told)
			<-closed
			_ = s.Close()
		}})
		if err != nil {
			t.Error(err)
		}
		agent <- l
	}()
	l, err := link.New(a, link.Config{Role: wire.RoleGuest})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	defer (<-agent).Close()
	handle, _, err := l.Open(t.Context(), wire.Request{Kind: wire.KindBind, Path: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	s := newSockets(slog.New(slog.DiscardHandler))
	s.leaving = 1
	go s.leave(&socket{}, handle)
	<-told
	over := s.empty()
	select {
	case <-over:
		t.Error("over before the agent has closed the socket")
	case <-time.After(20 * time.Millisecond):
	}
	close(closed)
	select {
	case <-over:
	case <-time.After(10 * time.Second):
		t.Error("not over when the agent has closed the socket")
	}
}

// TestIdentify tells a file under two names from another file that got its
// inode number later.
func TestIdentify(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	look := func(file string) (unix.Stat_t, fileID) {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(file, &st); err != nil {
			t.Fatal(err)
		}
		return st, identify(&st)
	}
	if err := os.WriteFile(a, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	st, made := look(a)
	if err := os.Link(a, b); err != nil {
		t.Fatal(err)
	}
	if _, got := look(b); got != made {
		t.Errorf("hard link is %+v, want %+v", got, made)
	}
	if err := os.Chmod(a, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, got := look(a); got != made {
		t.Errorf("after chmod it is %+v, want %+v", got, made)
	}
	later := time.Unix(0, st.Mtim.Nano()).Add(time.Second)
	if err := os.Chtimes(a, later, later); err != nil {
		t.Fatal(err)
	}
	if now, got := look(a); now.Ino != st.Ino || got == made {
		t.Errorf("with the same inode number and another time it is %+v, as before", got)
	}
}
