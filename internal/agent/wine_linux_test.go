package agent

import (
	"bytes"
	"errors"
	"io"
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
	"drvsock/internal/wire"
	"drvsock/wine"
)

// The Windows half under Wine: an agent that serves both ends of each
// connection, so that no other Windows program is needed.
func TestUnderWine(t *testing.T) {
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
	dir, err := rig.Temp()
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	exe, err := rig.Put(dir, built)
	check(t, err)
	root := rig.Windows(dir) + `\`
	at := func(name string) []byte { return []byte(root + name) }

	var log syncBuffer
	cmd := rig.Command(t.Context(), exe, "serve")
	cmd.Stderr = &log
	b := startCommand(t, cmd)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the agent's log:\n%s", log.Bytes())
		}
	})
	if b.Peer().OS != "windows" {
		t.Fatalf("the agent runs on %q", b.Peer().OS)
	}

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
