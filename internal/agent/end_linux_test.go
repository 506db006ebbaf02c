package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/wire"
)

// When the link is cut in the midst of it all, connections fail, and the files
// that the agent made go, but for one that is somebody else's by now.
func TestLinkLost(t *testing.T) {
	noDescriptorLeft(t)
	for name, cut := range map[string]func(*bench, chan struct{}){
		"guest closes": func(b *bench, _ chan struct{}) { _ = b.Close() },
		"guest dies":   func(b *bench, _ chan struct{}) { _ = b.rw.Close() },
		"agent stops":  func(_ *bench, stop chan struct{}) { close(stop) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t)
			flood := make(chan error, 1)
			listener(t, dir+"/host", func(c *net.UnixConn) {
				block := make([]byte, 1<<16)
				for {
					if _, err := c.Write(block); err != nil {
						flood <- err
						_ = c.Close()
						return
					}
				}
			})
			stop := make(chan struct{})
			b := newBench(t, Config{Drives: map[byte]string{'C': dir}, Stop: stop})
			s := b.open(wire.Request{Kind: wire.KindConnect, Path: hostPath("host")})
			full(t, dir+"/full")
			waits := make(chan error, 1)
			go func() {
				_, err := b.ask(wire.Request{Kind: wire.KindConnect, Path: hostPath("full")})
				waits <- err
			}()
			b.bind("bound")
			b.listen("listening", 5)
			b.listen("replaced", 5)
			check(t, os.Remove(dir+"/replaced"))
			check(t, os.WriteFile(dir+"/replaced", nil, 0o600))
			_, err := io.ReadFull(s, make([]byte, 1<<20))
			check(t, err)

			cut(b, stop)
			check(t, b.end())
			for what, ch := range map[string]chan error{"writer on the host": flood, "waiting connect": waits} {
				select {
				case err := <-ch:
					if err == nil {
						t.Errorf("%s did not fail", what)
					}
				case <-time.After(5 * time.Second):
					t.Errorf("%s hangs", what)
				}
			}
			if _, err := io.Copy(io.Discard, s); err == nil {
				t.Error("a stream of a lost link ended as a complete one")
			}
			var left []string
			files, err := os.ReadDir(dir)
			check(t, err)
			for _, f := range files {
				left = append(left, f.Name())
			}
			if d := cmp.Diff([]string{"full", "host", "replaced"}, left); d != "" {
				t.Errorf("files left (-want +got):\n%s", d)
			}
		})
	}
}

// A process that is stopped by a signal, or whose link breaks, cleans up too.
func TestProcessEnds(t *testing.T) {
	noDescriptorLeft(t)
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, 0} {
		t.Run(fmt.Sprint(sig), func(t *testing.T) {
			dir := folder(t)
			b, cmd := startAgent(t, uint32(os.Getuid()), dir)
			b.listen("x", 1)
			if _, err := os.Lstat(filepath.Join(dir, "x")); err != nil {
				t.Fatal(err)
			}
			if sig != 0 {
				check(t, cmd.Process.Signal(sig))
				select {
				case <-b.Done():
				case <-time.After(5 * time.Second):
					t.Fatal("agent does not end")
				}
			}
			check(t, b.end())
			if _, err := os.Lstat(filepath.Join(dir, "x")); !os.IsNotExist(err) {
				t.Errorf("socket file is left: %v", err)
			}
		})
	}
}

// An agent that has run out of descriptors says so, and its listeners go on when
// there are some again.
func TestOutOfDescriptors(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	t.Setenv(filesVar, "24")
	listener(t, dir+"/host", func(c *net.UnixConn) {
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	})
	b, _ := startAgent(t, uint32(os.Getuid()), dir)
	var accepted atomic.Int32
	b.onAccepted(func(in *link.Incoming) {
		if s, err := in.Accept(wire.Answer{}); err == nil {
			accepted.Add(1)
			_, _ = io.Copy(s, s)
			_ = s.Close()
		}
	})
	b.listen("guest", 100)
	const many = 40
	var conns []net.Conn
	for range many {
		c, err := net.Dial("unix", dir+"/guest")
		check(t, err)
		conns = append(conns, c)
	}
	// Some have the agent's last descriptors, the others its listener's backlog.
	eventually(t, "the agent runs out", func() bool {
		_, err := b.ask(wire.Request{Kind: wire.KindConnect, Path: hostPath("host")})
		return errors.Is(err, errno.EMFILE)
	})
	if n := accepted.Load(); n == 0 || n == many {
		t.Fatalf("%d of %d connections came through", n, many)
	}
	for _, c := range conns {
		check(t, c.Close())
	}
	eventually(t, "the rest comes through", func() bool { return accepted.Load() == many })
	c, err := net.Dial("unix", dir+"/guest")
	check(t, err)
	exchange(t, c.(*net.UnixConn), 1)
}

// A guest that takes its bind back before the answer leaves no socket behind.
func TestBindTakenBack(t *testing.T) {
	dir := folder(t)
	b := newBench(t, Config{Drives: map[byte]string{'C': dir}})
	_, err := b.ask(wire.Request{Kind: wire.KindStat, Path: []byte(`C:\`)}) // all is set up
	check(t, err)
	before := descriptors(t)
	for i := range 200 {
		ctx, cancel := context.WithCancel(context.Background())
		go cancel()
		s, _, err := b.Open(ctx, wire.Request{Kind: wire.KindBind, Path: hostPath(fmt.Sprint("x", i)), Mode: 0o700})
		if err == nil {
			_ = s.Close()
		}
		cancel()
	}
	// Which of the two came first is not to be told, but each handle is over.
	eventually(t, "every socket is closed while the link lives", func() bool { return descriptors(t) <= before })
	if _, err := b.ask(wire.Request{Kind: wire.KindStat, Path: []byte(`C:\`)}); err != nil {
		t.Errorf("link after that: %v", err)
	}
}

func TestServeRefusesBadDrives(t *testing.T) {
	noDescriptorLeft(t)
	c1, c2 := net.Pipe()
	defer c2.Close()
	if err := Serve(c1, Config{Drives: map[byte]string{'C': "/does/not/exist"}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Serve: %v", err)
	}
	if _, err := c2.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("Serve left its link open: %v", err)
	}
}

// Every refusal leaves a line that says which layer it was.
func TestRefusalIsLogged(t *testing.T) {
	var out syncBuffer
	b := newBench(t, Config{Drives: map[byte]string{'C': folder(t)}, Log: testLog(&out)})
	_, err := b.ask(wire.Request{Kind: wire.KindConnect, Path: hostPath("x"), Caller: wire.Caller{UID: 7, Program: "client"}})
	if !errors.Is(err, errno.ENOENT) {
		t.Fatal(err)
	}
	for _, want := range []string{"host: ENOENT", "program=client", "uid=7", `path=C:\x`} {
		eventually(t, want+" in the log", func() bool { return bytes.Contains(out.Bytes(), []byte(want)) })
	}
}

// TestHandleReset takes a bind back that the guest had been told of: its program
// never was.
func TestHandleReset(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	b := newBench(t, Config{Drives: map[byte]string{'C': dir}})
	kept, taken := b.bind("kept"), b.bind("taken")
	check(t, kept.Close())
	taken.Reset(errno.Errorf(errno.ECANCELED, errno.LayerGuest, "interrupted"))
	eventually(t, "the file of the reset handle is gone", func() bool {
		_, err := os.Lstat(dir + "/taken")
		return errors.Is(err, os.ErrNotExist)
	})
	if _, err := os.Lstat(dir + "/kept"); err != nil {
		t.Errorf("the file of the closed handle: %v", err)
	}
}

// TestHandlesEndBeforeLink has programs close their sockets, and the link end at
// once behind that: their files stay, as an operating system leaves them.
func TestHandlesEndBeforeLink(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	b := newBench(t, Config{Drives: map[byte]string{'C': dir}})
	var closed []*link.Stream
	var want []string
	for i := range 100 {
		name := fmt.Sprintf("%02d", i)
		h := b.bind(name)
		if i%2 == 0 {
			closed, want = append(closed, h), append(want, name)
		}
	}
	for _, h := range closed {
		check(t, h.CloseWrite())
	}
	check(t, b.end())
	var left []string
	files, err := os.ReadDir(dir)
	check(t, err)
	for _, f := range files {
		left = append(left, f.Name())
	}
	if d := cmp.Diff(want, left); d != "" {
		t.Errorf("files left (-want +got):\n%s", d)
	}
}

// TestStopBeforeHello stops an agent whose guest says nothing: it doesn't wait for
// the hello.
func TestStopBeforeHello(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	stop := make(chan struct{})
	served := make(chan error, 1)
	go func() { served <- Serve(a, Config{Drives: map[byte]string{'C': folder(t)}, Stop: stop}) }()
	// It has begun when it speaks.
	_, err := io.ReadFull(b, make([]byte, wire.HelloSize))
	check(t, err)
	close(stop)
	select {
	case err := <-served:
		check(t, err)
	case <-time.After(link.DefaultHelloTimeout / 2):
		t.Error("it waits for the hello")
		_ = b.Close()
		<-served
	}
}

// kept is a transport that is not closed before the other side has closed its end,
// as a pipe of Windows may be that somebody reads.
type kept struct {
	net.Conn
	gone <-chan struct{}
}

func (k kept) Close() error {
	<-k.gone
	return k.Conn.Close()
}

// TestStopKept stops an agent whose transport can't be closed: it is over in a bound
// all the same, and its sockets are gone.
func TestStopKept(t *testing.T) {
	dir := folder(t)
	a, b := net.Pipe()
	stop, gone := make(chan struct{}), make(chan struct{})
	served := make(chan error, 1)
	go func() { served <- Serve(kept{a, gone}, Config{Drives: map[byte]string{'C': dir}, Stop: stop}) }()
	l, err := link.New(b, link.Config{Role: wire.RoleGuest})
	check(t, err)
	s, _, err := l.Open(t.Context(), wire.Request{Kind: wire.KindBind, Path: hostPath("srv")})
	check(t, err)
	defer s.Close()
	close(stop)
	select {
	case err := <-served:
		check(t, err)
		if _, err := os.Lstat(dir + "/srv"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is there: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it waits for the transport to be closed")
	}
	close(gone)
	_ = l.Close()
}
