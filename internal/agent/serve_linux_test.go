package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"drvsock/internal/afunix"
	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/wire"
)

func (b *bench) unlinkErrno(name string) string {
	_, err := b.ask(wire.Request{Kind: wire.KindUnlink, Path: hostPath(name)})
	if err == nil {
		return ""
	}
	return errno.Of(err).String()
}

func TestStat(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	scene(t, dir)
	check(t, os.WriteFile(dir+"/five", []byte("12345"), 0o600))
	b := newBench(t, Config{Drives: map[byte]string{'C': dir}})
	tests := map[string]wire.Stat{
		"live": {Socket: true},
		"five": {Size: 5},
		"loop": {Size: 4},
	}
	for name, want := range tests {
		ans, err := b.ask(wire.Request{Kind: wire.KindStat, Path: hostPath(name)})
		check(t, err)
		if d := cmp.Diff(&want, ans.Stat); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	for _, root := range []string{`C:\`, `C:\dir`} {
		ans, err := b.ask(wire.Request{Kind: wire.KindStat, Path: []byte(root)})
		check(t, err)
		if ans.Stat == nil || !ans.Stat.Dir || ans.Stat.Socket {
			t.Errorf("%s: %+v", root, ans.Stat)
		}
	}
}

func TestRefusedByAgent(t *testing.T) {
	dir := folder(t)
	b := newBench(t, Config{Drives: map[byte]string{'C': dir}})
	tests := []struct {
		name string
		req  wire.Request
		want errno.Errno
	}{
		{"another drive", wire.Request{Kind: wire.KindConnect, Path: []byte(`D:\x`)}, errno.ENOENT},
		{"out of the drive", wire.Request{Kind: wire.KindBind, Path: []byte(`C:\..\x`)}, errno.EINVAL},
		{"connect from what is no handle", wire.Request{Kind: wire.KindConnect, Path: []byte(`C:\x`), From: 4711}, errno.EBADF},
		{"listen on what is no handle", wire.Request{Kind: wire.KindListen, From: 4711}, errno.EBADF},
		{"a request for the guest", wire.Request{Kind: wire.KindAccepted, From: 1}, errno.EOPNOTSUPP},
		{"a kind of a later version", wire.Request{Kind: 200}, errno.EOPNOTSUPP},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := b.ask(tt.req)
			var e *errno.Error
			if !errors.As(err, &e) || e.Errno != tt.want || e.Layer != errno.LayerAgent || e.Text == "" {
				t.Errorf("got %v, want %v of the agent with a reason", err, tt.want)
			}
		})
	}
	for _, tt := range []struct {
		kind wire.Kind
		want errno.Errno
	}{{wire.KindBind, errno.EADDRINUSE}, {wire.KindConnect, errno.ECONNREFUSED}, {wire.KindUnlink, errno.EISDIR}} {
		if _, err := b.ask(wire.Request{Kind: tt.kind, Path: []byte(`C:\`)}); !errors.Is(err, tt.want) {
			t.Errorf("root of the drive, kind %d: %v, want %v", tt.kind, err, tt.want)
		}
	}
}

// The life of a handle: nobody reaches it before listen, the guest hears of each
// connection and of its name, and the file stays when it is over.
func TestHandle(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	path := dir + "/srv"
	b := newBench(t, Config{Drives: map[byte]string{'C': dir}})
	requests := make(chan wire.Request, 10)
	b.onAccepted(func(in *link.Incoming) {
		requests <- in.Request
		s, err := in.Accept(wire.Answer{})
		if err != nil {
			return
		}
		_, _ = io.Copy(s, s)
		_ = s.Close()
	})
	h := b.bind("srv")
	if got := native("connect", path); got != unix.ECONNREFUSED {
		t.Errorf("connect before listen: %v", got)
	}
	for range 2 { // the second listen only changes the backlog
		check(t, b.open(wire.Request{Kind: wire.KindListen, From: h.ID(), Backlog: 5}).Close())
	}
	for _, name := range []string{"", dir + "/client"} {
		var local *net.UnixAddr
		if name != "" {
			local = &net.UnixAddr{Name: name, Net: "unix"}
		}
		c, err := net.DialUnix("unix", local, &net.UnixAddr{Name: path, Net: "unix"})
		check(t, err)
		_, err = c.Write([]byte("ping"))
		check(t, err)
		check(t, c.CloseWrite())
		got, err := io.ReadAll(c)
		if string(got) != "ping" || err != nil {
			t.Errorf("echo: %q, %v", got, err)
		}
		_ = c.Close()
		want := wire.Request{Kind: wire.KindAccepted, From: h.ID()}
		if name != "" {
			want.Peer = []byte(name)
		}
		if d := cmp.Diff(want, <-requests); d != "" {
			t.Errorf("request (-want +got):\n%s", d)
		}
	}
	check(t, h.Close())
	eventually(t, "listener is gone", func() bool { return native("connect", path) == unix.ECONNREFUSED })
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("file of a closed socket: %v", err)
	}
	check(t, b.end())
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("file of a closed socket after the link: %v", err)
	}
}

func TestRefusedAccept(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	b := newBench(t, Config{Drives: map[byte]string{'C': dir}})
	h := b.listen("srv", 5)
	c, err := net.Dial("unix", dir+"/srv")
	check(t, err)
	defer c.Close()
	_, _ = c.Write([]byte("x")) // unread bytes are what makes it a reset
	check(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read of a refused connection: %d, %v", n, err)
	}
	check(t, h.Close())
}

// At most backlog connections are offered at a time; the rest is the system's.
func TestAcceptIsBounded(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	const backlog = 3
	b := newBench(t, Config{Drives: map[byte]string{'C': dir}})
	var offered atomic.Int32
	release := make(chan struct{})
	b.onAccepted(func(in *link.Incoming) {
		offered.Add(1)
		select {
		case <-release:
		case <-in.Context().Done():
		}
		in.Refuse(errno.ECONNREFUSED)
	})
	h := b.listen("srv", backlog)
	fds := make([]int, 0, 20)
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	// Until the system's backlog is full as well, which takes the agent a
	// moment to get to.
	refused := 0
	for end := time.Now().Add(10 * time.Second); refused < 20 || offered.Load() < backlog; {
		fd, err := afunix.NewSocket()
		check(t, err)
		fds = append(fds, fd)
		if err := afunix.Connect(fd, dir+"/srv"); err == unix.EAGAIN {
			refused++
			time.Sleep(5 * time.Millisecond)
		} else if err != nil {
			t.Fatalf("connect: %v", err)
		}
		if time.Now().After(end) {
			t.Fatalf("%d connections offered, %d refused", offered.Load(), refused)
		}
	}
	if got := offered.Load(); got != backlog {
		t.Errorf("%d connections offered, want %d", got, backlog)
	}
	if got := len(fds) - refused; got > 2*(backlog+1) {
		t.Errorf("%d connections taken with a backlog of %d", got, backlog)
	}
	close(release)
	want := int32(len(fds) - refused)
	eventually(t, "all are offered in the end", func() bool { return offered.Load() == want })
	check(t, h.Close())
}

// A program that closes its listener has its waiting connections dropped.
func TestCloseEndsOffers(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	b := newBench(t, Config{Drives: map[byte]string{'C': dir}})
	ended := make(chan struct{})
	offered := make(chan struct{})
	b.onAccepted(func(in *link.Incoming) {
		close(offered)
		<-in.Context().Done()
		close(ended)
	})
	h := b.listen("srv", 5)
	c, err := net.Dial("unix", dir+"/srv")
	check(t, err)
	defer c.Close()
	<-offered
	check(t, h.Close())
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("offer outlives its listener")
	}
	check(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read of a dropped connection: %v", err)
	}
}

// Connections both ways at once, with their bytes compared.
func TestManyAtOnce(t *testing.T) {
	noDescriptorLeft(t)
	const many = 250 // of each kind
	dir := folder(t)
	echo := func(c interface {
		io.ReadWriter
		CloseWrite() error
		Close() error
	}) {
		_, _ = io.Copy(c, c)
		_ = c.CloseWrite()
		_ = c.Close()
	}
	listener(t, dir+"/host", func(c *net.UnixConn) { echo(c) })
	b := newBench(t, Config{Drives: map[byte]string{'C': dir}})
	b.onAccepted(func(in *link.Incoming) {
		if s, err := in.Accept(wire.Answer{}); err == nil {
			echo(s)
		}
	})
	b.listen("guest", 500)
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			s, _, err := b.Open(context.Background(), wire.Request{Kind: wire.KindConnect, Path: hostPath("host")})
			if err != nil {
				t.Errorf("connect %d: %v", i, err)
				return
			}
			exchange(t, s, uint64(i))
		})
		wg.Go(func() {
			c, err := net.Dial("unix", dir+"/guest")
			if err != nil {
				t.Errorf("dial %d: %v", i, err)
				return
			}
			exchange(t, c.(*net.UnixConn), uint64(many+i))
		})
	}
	wg.Wait()
}

// exchange sends random bytes, half-closes, and expects them back.
func exchange(t *testing.T, c interface {
	io.ReadWriteCloser
	CloseWrite() error
}, seed uint64) {
	defer c.Close()
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	sent := make([]byte, 1000+rng.Uint64()%30000)
	_, _ = rng.Read(sent)
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		wrote <- errors.Join(err, c.CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err := errors.Join(err, <-wrote); err != nil {
		t.Errorf("exchange %d: %v", seed, err)
	}
	if sha256.Sum256(got) != sha256.Sum256(sent) {
		t.Errorf("exchange %d: %d bytes back, %d sent", seed, len(got), len(sent))
	}
}
