//go:build linux

package wine

import (
	"os"
	"path/filepath"
	"strings"

	"drvsock/test/rig"
)

// names that NTFS cannot hold have other characters on the Windows side.
func names(s *stage) {
	const here, there = "a:b?c.sock", "a\uf03ab\uf03fc.sock"
	p := rig.StartProbe(s.t, s.run(rig.ProbeProgram(s.t)))
	for _, call := range []string{"socket 5 stream", "bind 5 " + here, "listen 5 9"} {
		p.Want("ok", "%s", call)
	}
	if _, err := os.Stat(filepath.Join(s.host, there)); err != nil {
		s.t.Error(err)
	}
	if got := p.Do("getsockname 5"); !strings.Contains(got, here) {
		s.t.Errorf("getsockname: %q", got)
	}
	for _, client := range []string{peerExe, winsockExe} {
		c := s.start(s.win(client, "get", s.windows(there)))
		if got := p.Do("accept 5 6"); !strings.HasPrefix(got, "ok") {
			s.t.Fatalf("accept: %q", got)
		}
		p.Do("send 6 hello%%0A")
		p.Want("ok", "close 6")
		c.says("hello").wait()
	}
	p.Want("ok", "unlink %s", here)
	s.absent(there)

	// A name beyond ASCII, and a server of Windows. The new file may have the
	// inode number of the one that is gone, whose listener lives on: it must
	// not be taken for that.
	const wide = "s\u00fcd\uf03a.sock"
	s.start(s.win(peerExe, "echo", s.windows(wide))).says("listening")
	p.Want("ok", "socket 7 stream")
	p.Want("ok", "connect 7 s\u00fcd:.sock")
	if got := p.Do("getpeername 7"); !strings.Contains(got, ":.sock") {
		s.t.Errorf("getpeername: %q", got)
	}
	p.Do("send 7 hello")
	p.Want("ok 5 hello", "recv 7 9")
}

// longPath has a folder whose Windows path leaves no room for a socket's name,
// while both programs reach the socket by a name without a folder.
func longPath(s *stage) {
	for _, part := range strings.Split("deep/"+strings.Repeat("0123456789/", 12), "/")[:13] {
		s.host, s.view = filepath.Join(s.host, part), filepath.Join(s.view, part)
		if err := os.Mkdir(s.host, 0o777); err != nil {
			s.t.Fatal(err)
		}
		open(s.t, s.host)
	}
	if n := len(s.windows("x")); n < 110 {
		s.t.Fatalf("path has %d characters only", n)
	}
	p := rig.StartProbe(s.t, s.run(rig.ProbeProgram(s.t)))
	for _, call := range []string{"socket 5 stream", "bind 5 x", "listen 5 9"} {
		p.Want("ok", "%s", call)
	}
	c := s.start(s.win(winsockExe, "get", "x"))
	if got := p.Do("accept 5 6"); !strings.HasPrefix(got, "ok") {
		s.t.Fatalf("accept: %q", got)
	}
	p.Do("send 6 hello%%0A")
	p.Want("ok", "close 6")
	c.says("hello").wait()

	s.start(s.win(peerExe, "echo", "y")).says("listening")
	p.Want("ok", "socket 7 stream")
	p.Want("ok", "connect 7 y")
	p.Do("send 7 hello")
	p.Want("ok 5 hello", "recv 7 9")
}
