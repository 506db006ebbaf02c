package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/wire"
)

// bench is a guest without programs: a link to an agent.
type bench struct {
	*link.Link
	t testing.TB

	mu       sync.Mutex
	accepted func(*link.Incoming) // for KindAccepted; nil refuses
	rw       io.Closer            // under the link, to cut it without a word
	end      func() error         // ends the link if it still lives, and returns what Serve did
}

func (b *bench) onAccepted(fn func(*link.Incoming)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.accepted = fn
}

func (b *bench) handle(in *link.Incoming) {
	b.mu.Lock()
	fn := b.accepted
	b.mu.Unlock()
	if fn == nil {
		in.Refuse(errno.Errorf(errno.ECONNREFUSED, errno.LayerGuest, "nobody listens"))
		return
	}
	fn(in)
}

func (b *bench) config() link.Config {
	return link.Config{Role: wire.RoleGuest, Build: "test", Handler: b.handle}
}

// newBench serves dir as drive C in this process.
func newBench(t testing.TB, cfg Config) *bench {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "link")
		ends[i], err = net.FileConn(f)
		check(t, err)
		check(t, f.Close())
	}
	served := make(chan error, 1)
	go func() { served <- Serve(ends[1], cfg) }()
	b := &bench{t: t, rw: ends[0]}
	b.Link, err = link.New(ends[0], b.config())
	check(t, err)
	b.end = sync.OnceValue(func() error {
		_ = b.Close()
		select {
		case err := <-served:
			return err
		case <-time.After(10 * time.Second):
			return errors.New("Serve does not return")
		}
	})
	t.Cleanup(func() { check(t, b.end()) })
	return b
}

// startAgent serves dir as drive C in a process under uid.
func startAgent(t testing.TB, uid uint32, dir string) (*bench, *exec.Cmd) {
	t.Helper()
	cmd := child(t, uid, "serve", dir)
	return startCommand(t, cmd), cmd
}

// startCommand starts an agent and makes a link of its standard streams.
func startCommand(t testing.TB, cmd *exec.Cmd) *bench {
	t.Helper()
	theirs, w, err := os.Pipe()
	check(t, err)
	r, theirs2, err := os.Pipe()
	check(t, err)
	cmd.Stdin, cmd.Stdout = theirs, theirs2
	check(t, cmd.Start())
	check(t, errors.Join(theirs.Close(), theirs2.Close()))
	rw, err := link.Files(r, w)
	check(t, err)
	b := &bench{t: t, rw: rw}
	b.Link, err = link.New(rw, b.config())
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatal(err)
	}
	b.end = sync.OnceValue(func() error {
		_ = b.Close()
		timer := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		return cmd.Wait()
	})
	t.Cleanup(func() { _ = b.end() })
	return b
}

// ask makes a request and ends its stream.
func (b *bench) ask(req wire.Request) (wire.Answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, ans, err := b.Open(ctx, req)
	if err == nil {
		_ = s.Close()
	}
	return ans, err
}

// open makes a request that has to succeed.
func (b *bench) open(req wire.Request) *link.Stream {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, _, err := b.Open(ctx, req)
	check(b.t, err)
	return s
}

// bind makes a handle for name.
func (b *bench) bind(name string) *link.Stream {
	b.t.Helper()
	return b.open(wire.Request{Kind: wire.KindBind, Path: hostPath(name), Mode: 0o777})
}

// listen makes a listener at name.
func (b *bench) listen(name string, backlog uint32) *link.Stream {
	b.t.Helper()
	s := b.bind(name)
	check(b.t, b.open(wire.Request{Kind: wire.KindListen, From: s.ID(), Backlog: backlog}).Close())
	return s
}

// call makes the call of package-wide name on path, as native does.
func (b *bench) call(call string, path []byte) syscall.Errno {
	b.t.Helper()
	req := wire.Request{Path: path}
	switch call {
	case "connect":
		req.Kind = wire.KindConnect
	case "connect-nonblock":
		req.Kind, req.Nonblock = wire.KindConnect, true
	case "connect-timeout":
		req.Kind, req.Timeout = wire.KindConnect, 200
	case "bind":
		req.Kind, req.Mode = wire.KindBind, 0o777
	case "stat":
		req.Kind = wire.KindStat
	case "unlink":
		req.Kind = wire.KindUnlink
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, _, err := b.Open(ctx, req)
	if err != nil {
		var e *errno.Error
		if !errors.As(err, &e) {
			b.t.Errorf("%s %s: %v has no errno", call, path, err)
		} else if e.Layer != errno.LayerHost || e.Text == "" || e.System == 0 {
			b.t.Errorf("%s %s: %v lacks the host's reason", call, path, err)
		}
		return syscall.Errno(errno.Of(err))
	}
	if call == "bind" {
		if _, err := b.ask(wire.Request{Kind: wire.KindUnlink, Path: path}); err != nil {
			b.t.Errorf("unlink after bind: %v", err)
		}
	}
	_ = s.Close()
	return 0
}
