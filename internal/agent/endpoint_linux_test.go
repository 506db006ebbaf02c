package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/afunix"
	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/wire"
)

// echoAccepted has the guest send everything back, and tells what was asked.
func (b *bench) echoAccepted() <-chan wire.Request {
	requests := make(chan wire.Request, 100)
	b.onAccepted(func(in *link.Incoming) {
		requests <- in.Request
		if s, err := in.Accept(wire.Answer{}); err == nil {
			_, _ = io.Copy(s, s)
			_ = s.CloseWrite()
			_ = s.Close()
		}
	})
	return requests
}

// make makes a bind that has to succeed, and returns what was answered.
func (b *bench) make(req wire.Request) (*link.Stream, wire.Answer) {
	b.t.Helper()
	req.Kind = wire.KindBind
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, ans, err := b.Open(ctx, req)
	check(b.t, err)
	return s, ans
}

func (b *bench) begin(h *link.Stream) {
	b.t.Helper()
	check(b.t, b.open(wire.Request{Kind: wire.KindListen, From: h.ID(), Backlog: 5}).Close())
}

// Each network that a Linux host has, both ways.
func TestNetworks(t *testing.T) {
	t.Setenv("DRVSOCK_TEST_FOLDER", `C:\sub`)
	me, err := user.Current()
	check(t, err)
	tests := []struct {
		name string
		req  wire.Request
		file string // that is there while the listener is
		pid  bool   // the caller's process is known
	}{
		{"tcp", wire.Request{Network: wire.NetTCP, Path: []byte("127.0.0.1:0")}, "", false},
		{"unix", wire.Request{Replace: true, Path: []byte(`C:\sub\u.sock`)}, "sub/u.sock", true},
		{"unix by variable", wire.Request{Replace: true, Path: []byte(`%DRVSOCK_TEST_FOLDER%\v.sock`)}, "sub/v.sock", true},
		{"assuan", wire.Request{Network: wire.NetAssuan, Path: []byte(`%DRVSOCK_TEST_FOLDER%\S.agent`)}, "sub/S.agent", false},
		{"cygwin", wire.Request{Network: wire.NetCygwin, Path: []byte(`C:\sub\cyg`)}, "sub/cyg", true},
	}
	for _, tt := range tests {
		for _, reset := range []bool{false, true} {
			t.Run(tt.name+"/"+strconv.FormatBool(reset), func(t *testing.T) {
				noDescriptorLeft(t)
				dir := folder(t)
				check(t, os.Mkdir(dir+"/sub", 0o755))
				b := newBench(t, Config{Drives: map[byte]string{'C': dir}})
				requests := b.echoAccepted()
				h, ans := b.make(tt.req)
				path := tt.req.Path
				if tt.req.Network == wire.NetTCP {
					path = ans.Address
				}
				if want := dir + "/" + tt.file; tt.file != "" && string(ans.Address) != want {
					t.Errorf("address %s, want %s", ans.Address, want)
				}
				b.begin(h)
				b.begin(h) // as listen(2) may be called again
				for i := range 3 {
					s, _, err := b.Open(t.Context(), wire.Request{Kind: wire.KindConnect, Network: tt.req.Network, Replace: tt.req.Replace, Path: path})
					check(t, err)
					exchange(t, s, uint64(i))
					got := <-requests
					if got.From != h.ID() || got.Caller.User != me.Username || got.Caller.UID != 0 || (got.Caller.PID != 0) != tt.pid || (got.Caller.Program != "") != (tt.pid && tt.req.Network == 0) {
						t.Errorf("request %+v", got)
					}
				}
				_, err := b.ask(wire.Request{Kind: wire.KindConnect, From: h.ID(), Network: tt.req.Network, Path: path})
				if err == nil {
					t.Error("a listener connects")
				}
				// Last, since to find out it connects.
				_, err = b.ask(wire.Request{Kind: wire.KindBind, Network: tt.req.Network, Replace: tt.req.Replace, Path: path})
				if !errors.Is(err, errno.EADDRINUSE) {
					t.Errorf("second bind: %v", err)
				}
				if reset {
					h.Reset(errno.ECANCELED)
				} else {
					check(t, h.Close())
				}
				eventually(t, "nobody listens", func() bool {
					_, err := b.ask(wire.Request{Kind: wire.KindConnect, Network: tt.req.Network, Replace: tt.req.Replace, Path: path})
					return errors.Is(err, errno.ECONNREFUSED) || errors.Is(err, errno.ENOENT)
				})
				eventually(t, "the file is gone", func() bool {
					_, err := os.Lstat(dir + "/" + tt.file)
					return tt.file == "" || errors.Is(err, fs.ErrNotExist)
				})
			})
		}
	}
}

// What a link made ends with it.
func TestNetworksEndWithLink(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	b := newBench(t, Config{Drives: map[byte]string{'C': dir}})
	_, ans := b.make(wire.Request{Network: wire.NetTCP, Path: []byte("127.0.0.1:0")})
	b.make(wire.Request{Replace: true, Path: hostPath("u")})
	b.make(wire.Request{Network: wire.NetAssuan, Path: hostPath("a")})
	check(t, b.end())
	if _, err := net.Dial("tcp", string(ans.Address)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after the link: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v left, %v", left, err)
	}
}

// Nothing is accepted before KindListen.
func TestNoAcceptBeforeListen(t *testing.T) {
	noDescriptorLeft(t)
	b := newBench(t, Config{})
	requests := b.echoAccepted()
	h, ans := b.make(wire.Request{Network: wire.NetTCP, Path: []byte("127.0.0.1:0")})
	c, err := net.Dial("tcp", string(ans.Address))
	check(t, err)
	select {
	case <-requests:
		t.Error("accepted before KindListen")
	case <-time.After(50 * time.Millisecond):
	}
	b.begin(h)
	exchange(t, c.(*net.TCPConn), 1)
	<-requests
	check(t, h.Close())
}

func TestReplaceAndMode(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/stale"})
	check(t, err)
	l.SetUnlinkOnClose(false)
	check(t, l.Close())
	b := newBench(t, Config{Drives: map[byte]string{'C': dir}})
	for mode, want := range map[uint32]fs.FileMode{0: 0o600, 0o660: 0o660} {
		h, _ := b.make(wire.Request{Replace: true, Mode: mode, Path: hostPath("stale")})
		if st, err := os.Lstat(dir + "/stale"); err != nil || st.Mode().Perm() != want {
			t.Errorf("mode %v, %v, want %v", st.Mode(), err, want)
		}
		check(t, h.Close())
		eventually(t, "the file is gone", func() bool {
			_, err := os.Lstat(dir + "/stale")
			return errors.Is(err, fs.ErrNotExist)
		})
	}
}

func TestNetworkRefusals(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	full(t, dir+"/full")
	check(t, os.WriteFile(dir+"/file", []byte("no port"), 0o600))
	b := newBench(t, Config{Drives: map[byte]string{'C': dir}})
	tests := []struct {
		name string
		req  wire.Request
		want errno.Errno
		says string
	}{
		{"a pipe", wire.Request{Network: wire.NetPipe, Path: []byte(`\\.\pipe\x`)}, errno.EAFNOSUPPORT, "Windows"},
		{"Pageant", wire.Request{Network: wire.NetPageant}, errno.EAFNOSUPPORT, "Pageant"},
		{"an unknown network", wire.Request{Network: 99, Path: []byte("x")}, errno.EAFNOSUPPORT, "99"},
		{"another machine", wire.Request{Network: wire.NetTCP, Path: []byte("192.0.2.1:80")}, errno.EACCES, "loopback"},
		{"all addresses", wire.Request{Network: wire.NetTCP, Path: []byte("0.0.0.0:0")}, errno.EACCES, "loopback"},
		{"no address", wire.Request{Network: wire.NetTCP, Path: []byte("x")}, errno.EINVAL, "IP:PORT"},
		{"an unset variable", wire.Request{Network: wire.NetAssuan, Path: []byte(`%DRVSOCK_NOT_SET%\x`)}, errno.ENOENT, "DRVSOCK_NOT_SET"},
		{"a path without a drive", wire.Request{Network: wire.NetAssuan, Path: []byte(`/etc/x`)}, errno.EINVAL, "etc"},
		{"no such drive", wire.Request{Network: wire.NetCygwin, Path: []byte(`Q:\x`)}, errno.ENOENT, "Q"},
		{"below nothing", wire.Request{Replace: true, Path: hostPath("no/x")}, errno.ENOENT, "no"},
	}
	for _, tt := range tests {
		for _, kind := range []wire.Kind{wire.KindConnect, wire.KindBind} {
			tt.req.Kind = kind
			_, err := b.ask(tt.req)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s of %s: %v, want %v and %q", kind, tt.name, err, tt.want, tt.says)
			}
		}
	}
	for _, req := range []wire.Request{
		{Replace: true, Path: hostPath("full"), Timeout: 50},
		{Replace: true, Path: hostPath("full"), Nonblock: true},
	} {
		req.Kind = wire.KindConnect
		if _, err := b.ask(req); !errors.Is(err, errno.EAGAIN) {
			t.Errorf("connect to a full listener: %v", err)
		}
	}
	_, err := b.ask(wire.Request{Kind: wire.KindConnect, Network: wire.NetAssuan, Path: hostPath("file")})
	if err == nil {
		t.Error("connected to a file")
	}
}

// A guest that refuses resets the host's program.
func TestRefusedTCP(t *testing.T) {
	noDescriptorLeft(t)
	b := newBench(t, Config{})
	h, ans := b.make(wire.Request{Network: wire.NetTCP, Path: []byte("127.0.0.1:0")})
	b.begin(h)
	c, err := net.Dial("tcp", string(ans.Address))
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a refused connection: %v", err)
	}
	check(t, h.Close())
}

// The user who asked owns the file where both sides have the same users.
func TestSameUsersForward(t *testing.T) {
	needRoot(t)
	noDescriptorLeft(t)
	dir := folder(t)
	b := newBench(t, Config{Drives: map[byte]string{'C': dir}, SameUsers: true})
	h, _ := b.make(wire.Request{Replace: true, Path: hostPath("s"), Caller: wire.Caller{UID: nobody, GID: nobody}})
	var st unix.Stat_t
	check(t, unix.Lstat(dir+"/s", &st))
	if st.Uid != nobody || st.Gid != nobody || st.Mode&0o777 != 0o600 {
		t.Errorf("%#o of %d:%d", st.Mode, st.Uid, st.Gid)
	}
	check(t, h.Close())
}

// Whoever the guest says is calling, a connect is the agent's: its account's
// rights decide, and the host's program sees that account.
func TestSameUsersConnect(t *testing.T) {
	needRoot(t)
	for _, agent := range []uint32{0, nobody} {
		for _, claimed := range []uint32{0, nobody} {
			for _, replace := range []bool{false, true} {
				t.Run(fmt.Sprintf("agent %d, caller %d, replace %v", agent, claimed, replace), func(t *testing.T) {
					dir := folder(t)
					seen := make(chan uint32, 1)
					l := listener(t, dir+"/roots", func(c *net.UnixConn) {
						defer c.Close()
						var cred *unix.Ucred
						check(t, afunix.Control(c, func(fd int) (err error) {
							cred, err = unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
							return err
						}))
						seen <- cred.Uid
					})
					check(t, os.Chmod(l.Addr().String(), 0o600))
					b := startCommand(t, child(t, agent, "serve", dir, sameUsers))
					_, err := b.ask(wire.Request{
						Kind: wire.KindConnect, Path: hostPath("roots"), Replace: replace,
						Caller: wire.Caller{UID: claimed, GID: claimed},
					})
					if agent != 0 {
						if !errors.Is(err, errno.EACCES) {
							t.Errorf("connect to root's socket: %v, want EACCES", err)
						}
						return
					}
					check(t, err)
					if uid := <-seen; uid != agent {
						t.Errorf("the host's program sees uid %d, want the agent's, %d", uid, agent)
					}
				})
			}
		}
	}
}
