package agent

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/proof"
	"drvsock/internal/wire"
	"drvsock/wine"
)

// wineBinary builds this test for Windows and puts it into a folder of Wine's.
func wineBinary(t *testing.T) (rig *wine.Rig, dir, exe string) {
	t.Helper()
	rig, err := wine.Find()
	if err != nil {
		t.Skipf("%v: wine/setup DIR, then %s=DIR go test ./internal/agent", err, wine.Env)
	}
	built := filepath.Join(t.TempDir(), "agent.exe")
	compile := exec.Command("go", "test", "-c", "-o", built, ".")
	compile.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("compile: %v\n%s", err, out)
	}
	dir, err = rig.Temp()
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	exe, err = rig.Put(dir, built)
	check(t, err)
	return rig, dir, exe
}

// wineAgent starts this agent's Windows half, with a folder on drive C whose
// Windows path is root.
func wineAgent(t *testing.T) (b *bench, dir, root string, log *syncBuffer) {
	t.Helper()
	rig, dir, exe := wineBinary(t)
	log = new(syncBuffer)
	cmd := rig.Command(t.Context(), exe, "serve")
	cmd.Stderr = log
	b = startCommand(t, cmd)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the agent's log:\n%s", log.Bytes())
		}
	})
	if b.Peer().OS != "windows" {
		t.Fatalf("the agent runs on %q", b.Peer().OS)
	}
	return b, dir, rig.Windows(dir) + `\`, log
}

// The tests of the Windows half itself.
func TestWindowsTests(t *testing.T) {
	rig, dir, exe := wineBinary(t)
	cmd := rig.Command(t.Context(), exe, "-test.v", "-test.timeout=1m")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		t.Errorf("%v\n%s", err, out)
	}
}

// The Windows half under Wine: an agent that serves both ends of each
// connection, so that no other Windows program is needed.
func TestUnderWine(t *testing.T) {
	b, dir, root, log := wineAgent(t)
	at := func(name string) []byte { return []byte(root + name) }

	// A handle's life, with data both ways.
	requests := make(chan wire.Request, 100)
	b.onAccepted(func(in *link.Incoming) {
		requests <- in.Request
		if s, err := in.Accept(wire.Answer{}); err == nil {
			_, _ = io.Copy(s, s)
			_ = s.Close()
		}
	})
	refused := func(what string, req wire.Request, want errno.Errno) {
		t.Helper()
		_, err := b.ask(req)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	connect := func(name string) wire.Request { return wire.Request{Kind: wire.KindConnect, Path: at(name)} }
	bind := func(name string) wire.Request { return wire.Request{Kind: wire.KindBind, Path: at(name)} }

	h := b.open(bind("srv"))
	refused("connect before listen", connect("srv"), errno.ECONNREFUSED)
	for range 2 {
		check(t, b.open(wire.Request{Kind: wire.KindListen, From: h.ID(), Backlog: 50}).Close())
	}
	refused("bind of a name that is taken", bind("srv"), errno.EADDRINUSE)
	exchange(t, b.open(connect("srv")), 1)
	if d := cmp.Diff(wire.Request{Kind: wire.KindAccepted, From: h.ID()}, <-requests); d != "" {
		t.Errorf("request (-want +got):\n%s", d)
	}
	ans, err := b.ask(wire.Request{Kind: wire.KindStat, Path: at("srv")})
	if err != nil || ans.Stat == nil || !ans.Stat.Socket {
		t.Errorf("stat: %+v, %v", ans.Stat, err)
	}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() { exchange(t, b.open(connect("srv")), uint64(i)) })
	}
	wg.Wait()

	// A bound client.
	c := b.open(bind("client"))
	req := connect("srv")
	req.From = c.ID()
	exchange(t, b.open(req), 3)
	refused("connect twice", req, errno.EISCONN)
	check(t, c.Close())

	// Refusals.
	check(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	check(t, os.Chmod(filepath.Join(dir, "file"), 0o666))
	check(t, os.Mkdir(filepath.Join(dir, "locked"), 0o555)) // belongs to this uid
	refused("connect to nothing", connect("missing"), errno.ENOENT)
	refused("connect below nothing", connect(`no\x`), errno.ENOENT)
	refused("connect below a file", connect(`file\x`), errno.ENOTDIR)
	refused("connect to a file", connect("file"), errno.ECONNREFUSED)
	refused("connect to a stale socket", connect("client"), errno.ECONNREFUSED)
	refused("bind below nothing", bind(`no\x`), errno.ENOENT)
	refused("bind below a file", bind(`file\x`), errno.ENOTDIR)
	refused("bind onto a folder", bind("locked"), errno.EADDRINUSE)
	if os.Getuid() == 0 {
		refused("bind in a locked folder", bind(`locked\x`), errno.EACCES)
	}
	refused("stat of nothing", wire.Request{Kind: wire.KindStat, Path: at("missing")}, errno.ENOENT)
	refused("unlink of nothing", wire.Request{Kind: wire.KindUnlink, Path: at("missing")}, errno.ENOENT)
	refused("unlink of a file", wire.Request{Kind: wire.KindUnlink, Path: at("file")}, errno.ENOTSOCK)
	refused("unlink of a folder", wire.Request{Kind: wire.KindUnlink, Path: at("locked")}, errno.EISDIR)
	refused("a device's name", bind("nul"), errno.EINVAL)

	// A folder whose path leaves no room for a name.
	deep := strings.Repeat(strings.Repeat("d", 50)+`\`, 4)
	check(t, os.MkdirAll(filepath.Join(dir, strings.ReplaceAll(deep, `\`, "/")), 0o777))
	check(t, filepath.WalkDir(filepath.Join(dir, strings.Repeat("d", 50)), func(p string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chmod(p, 0o777))
	}))
	far := b.open(bind(deep + "far"))
	check(t, b.open(wire.Request{Kind: wire.KindListen, From: far.ID(), Backlog: 5}).Close())
	exchange(t, b.open(connect(deep+"far")), 4)
	refused("a name that is too long in any folder", bind(deep+strings.Repeat("n", 120)), errno.ENAMETOOLONG)

	// The owner's unlink, and another file in its place.
	u := b.open(bind("unlinked"))
	check(t, b.open(wire.Request{Kind: wire.KindUnlink, Path: at("unlinked")}).Close())
	check(t, u.Close())
	b.open(bind("replaced"))
	check(t, os.Remove(filepath.Join(dir, "replaced")))
	check(t, os.WriteFile(filepath.Join(dir, "replaced"), []byte("mine"), 0o644))

	further(t, b, connect("srv"))

	// The end.
	begin := time.Now()
	if err := b.end(); err != nil {
		t.Errorf("agent ended with %v", err)
	}
	t.Logf("ended within %v", time.Since(begin))
	for name, stays := range map[string]bool{"srv": false, "client": true, "replaced": true, strings.ReplaceAll(deep, `\`, "/") + "far": false} {
		if _, err := os.Lstat(filepath.Join(dir, name)); (err == nil) != stays {
			t.Errorf("%s stays: %v, want %v", filepath.Base(name), err == nil, stays)
		}
	}
	if bytes.Contains(log.Bytes(), []byte("made anew")) {
		t.Error("package net could not take a bound socket over")
	}
}

// further makes another link to b's agent, over TCP in the place of a Hyper-V
// socket, which Wine doesn't have: strangers first.
func further(t *testing.T, b *bench, req wire.Request) {
	t.Helper()
	secret := proof.NewSecret()
	ask := func(machine string) wire.Request {
		return wire.Request{Kind: wire.KindLink, Path: []byte(machine), Secret: secret[:]}
	}
	for _, machine := range []string{"8f2e1d0c-1111-4222-8333-444455556666", "", "nonsense"} {
		if _, err := b.ask(ask(machine)); err == nil {
			t.Errorf("it listens for the machine %q", machine)
		} else {
			t.Logf("machine %q: %v", machine, err)
		}
	}
	h, ans, err := b.Open(t.Context(), ask("loopback"))
	check(t, err)
	defer h.Close()
	dial := func() *net.TCPConn {
		c, err := net.Dial("tcp", string(ans.Address))
		check(t, err)
		return c.(*net.TCPConn)
	}
	for _, s := range []proof.Secret{{}, proof.NewSecret()} {
		c := dial()
		if err := proof.Prove(t.Context(), c, s, guestParty); err == nil {
			t.Error("a stranger got in")
		}
		check(t, c.Close())
	}
	if _, err := b.ask(ask("loopback")); !errors.Is(err, errno.EBUSY) {
		t.Errorf("a second one: %v", err)
	}
	c := dial()
	check(t, proof.Prove(t.Context(), c, secret, guestParty))
	l, err := link.New(c, link.Config{Role: wire.RoleGuest})
	check(t, err)
	eventually(t, "nobody listens", func() bool {
		s, err := net.Dial("tcp", string(ans.Address))
		if err == nil {
			_ = s.Close()
		}
		return err != nil
	})
	s, _, err := l.Open(t.Context(), req)
	check(t, err)
	exchange(t, s, 9)
	check(t, h.Close())
	select {
	case <-l.Done():
	case <-time.After(10 * time.Second):
		t.Error("the link outlives its request")
		_ = l.Close()
	}
}

// The kinds of endpoint of Windows, both ends served by the agent.
func TestWineNetworks(t *testing.T) {
	b, dir, root, _ := wineAgent(t)
	requests := b.echoAccepted()
	ended := map[uint32]bool{}
	next := func() wire.Request {
		for {
			// A socket that is being closed may still take who asks if it is.
			if got := <-requests; !ended[got.From] {
				return got
			}
		}
	}
	refused := func(what string, req wire.Request, want errno.Errno, says string) {
		t.Helper()
		if _, err := b.ask(req); !errors.Is(err, want) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %v and %q", what, err, want, says)
		}
	}
	for _, tt := range []struct {
		name string
		req  wire.Request
		half bool // has a half-close
		pid  bool // tells of its callers
		file string
	}{
		{"message pipe", wire.Request{Network: wire.NetPipe, Message: true, Path: []byte(`\\.\pipe\drvsock-agent-m-%USERNAME%`)}, true, true, ""},
		{"byte pipe", wire.Request{Network: wire.NetPipe, Path: []byte(`\\.\pipe\drvsock-agent-b`), Access: []byte("S-1-5-32-545\n")}, false, true, ""},
		{"tcp", wire.Request{Network: wire.NetTCP, Path: []byte("127.0.0.1:0")}, true, false, ""},
		{"unix", wire.Request{Replace: true, Path: []byte(root + "u.sock")}, true, false, "u.sock"},
		{"assuan", wire.Request{Network: wire.NetAssuan, Path: []byte(root + "S.agent")}, true, false, "S.agent"},
		{"cygwin", wire.Request{Network: wire.NetCygwin, Path: []byte(root + "cyg")}, true, true, "cyg"},
	} {
		h, ans := b.make(tt.req)
		path := tt.req.Path
		if tt.req.Network == wire.NetTCP {
			path = ans.Address
		}
		connect := wire.Request{Kind: wire.KindConnect, Network: tt.req.Network, Replace: tt.req.Replace, Path: path}
		b.begin(h)
		// So many at once that some have to wait for an instance of a pipe.
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				if tt.half {
					exchange(t, b.open(connect), uint64(i))
				} else {
					there(t, b.open(connect), 8<<20/10)
				}
			})
		}
		wg.Wait()
		for range 10 {
			got := next()
			if got.From != h.ID() || (got.Caller.PID != 0) != tt.pid {
				t.Errorf("%s: request %+v", tt.name, got)
			}
			if tt.req.Network == wire.NetPipe && (got.Caller.Program != "agent.exe" || !strings.HasSuffix(got.Caller.User, `\winetest`)) {
				t.Errorf("%s: caller %+v", tt.name, got.Caller)
			}
		}
		s := b.open(connect)
		there(t, s, 8<<20)
		next()
		if tt.file != "" {
			if _, err := os.Lstat(filepath.Join(dir, tt.file)); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
		ended[h.ID()] = true
		check(t, h.Close())
		if tt.file != "" {
			eventually(t, tt.name+": the file is gone", func() bool {
				_, err := os.Lstat(filepath.Join(dir, tt.file))
				return os.IsNotExist(err)
			})
		}
		eventually(t, tt.name+": nobody listens", func() bool {
			_, err := b.ask(connect)
			return errors.Is(err, errno.ECONNREFUSED) || errors.Is(err, errno.ENOENT)
		})
	}
	// Pageant carries messages of the agent protocol and nothing else.
	rig, err := wine.Find()
	check(t, err)
	release, err := rig.Alone(t.Context(), "pageant")
	check(t, err)
	defer release()
	pageant := wire.Request{Network: wire.NetPageant}
	refused("no Pageant", wire.Request{Kind: wire.KindConnect, Network: wire.NetPageant}, errno.ECONNREFUSED, "Pageant")
	h, ans := b.make(pageant)
	if string(ans.Address) != "pageant:" {
		t.Errorf("address %q", ans.Address)
	}
	b.begin(h)
	there(t, b.open(wire.Request{Kind: wire.KindConnect, Network: wire.NetPageant}), 0)
	s := b.open(wire.Request{Kind: wire.KindConnect, Network: wire.NetPageant})
	question := []byte{0, 0, 0, 1, 11}
	_, err = s.Write(question)
	check(t, err)
	got := make([]byte, len(question))
	if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, question) {
		t.Errorf("Pageant's answer %v, %v", got, err)
	}
	check(t, s.Close())
	check(t, h.Close())
	for _, kind := range []wire.Kind{wire.KindConnect, wire.KindBind} {
		refused("an unset variable", wire.Request{Kind: kind, Network: wire.NetPipe, Path: []byte(`\\.\pipe\%DRVSOCK_NOT_SET%`)}, errno.ENOENT, "DRVSOCK_NOT_SET")
		refused("no pipe", wire.Request{Kind: kind, Network: wire.NetPipe, Path: []byte(`\\server\pipe\x`)}, errno.EINVAL, "no pipe of this machine")
	}
	refused("a missing pipe", wire.Request{Kind: wire.KindConnect, Network: wire.NetPipe, Path: []byte(`\\.\pipe\drvsock-none`)}, errno.ENOENT, "drvsock-none")
	refused("an account that isn't there", wire.Request{Kind: wire.KindBind, Network: wire.NetPipe, Path: []byte(`\\.\pipe\drvsock-x`), Access: []byte("nosuchaccount\n")}, errno.EINVAL, "nosuchaccount")
	if err := b.end(); err != nil {
		t.Errorf("agent ended with %v", err)
	}
}

// there sends n bytes, expects them back, and closes.
func there(t *testing.T, s io.ReadWriteCloser, n int) {
	defer s.Close()
	sent := bytes.Repeat([]byte("0123456789abcde\n"), n/16)
	wrote := make(chan error, 1)
	go func() {
		_, err := s.Write(sent)
		wrote <- err
	}()
	got := make([]byte, len(sent))
	_, err := io.ReadFull(s, got)
	if err := errors.Join(err, <-wrote); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes there and back: %v", n, err)
	}
}
