//go:build linux

package contract

import (
	"net/url"
	"strings"
	"testing"
)

// peer checks what getpeername of the guest's socket says: the bytes that the
// program passed, in a mount the name of the file that they lead to. One
// machine's kernel has those that the listener passed, which on the host may be
// "C:\\…".
func (s *stage) peer(fd int, name, file string) {
	s.t.Helper()
	got := s.near.Do("getpeername %d", fd)
	if !s.drvsock {
		return
	}
	if s.way.inFolder() {
		name = file
	}
	name, _, _ = strings.Cut(name, "%00")
	want, err := url.PathUnescape(name)
	if err != nil {
		s.t.Fatal(err)
	}
	_, got, _ = strings.Cut(got, " name=")
	if got, err = url.PathUnescape(got); err != nil || got != want+"\x00" {
		s.t.Errorf("getpeername after connect to %q says %q, %v", want, got, err)
	}
}

// reach connects the guest's socket 5 by name to the file that far listens on with
// 5, and shows that bytes arrive.
func reach(s *stage, name, file string) {
	s.t.Helper()
	s.near.all("socket 5 stream", "connect 5 "+name, "getsockname 5", "send 5 hello")
	s.peer(5, name, file)
	s.far.all("accept 5 6", "recv 6 9", "send 6 there", "close 6")
	s.near.all("recv 5 9", "recv 5 9", "close 5")
}

// serve has the guest bind name and the host connect to it by hostName.
func serve(s *stage, name, hostName string) {
	s.t.Helper()
	s.near.all("socket 5 stream", "bind 5 "+name, "listen 5 5", "getsockname 5")
	s.far.all("socket 7 stream", "connect 7 "+hostName, "send 7 hello", "stat "+hostName)
	s.near.all("accept 5 6", "getsockname 6", "recv 6 9", "send 6 there", "close 6", "close 5", "unlink "+name)
	s.far.all("recv 7 9", "recv 7 9", "close 7")
}

// TestNames is C4 and C8: which socket a name means, and the bytes that
// getsockname, getpeername and accept give back.
func TestNames(t *testing.T) {
	long := strings.Repeat("./", 53) + "h1" // 108 bytes: sun_path to the last one
	play(t, []scenario{
		{name: "connect", fails: "ECONNREFUSED", play: func(s *stage) {
			s.far.all("umask 0", "mkdir d", "socket 5 stream", "bind 5 h", "listen 5 9", "symlink ../h d/up",
				"symlink d dd", "symlink h one", "symlink one two")
			for _, name := range []string{"h", "./h", ".//h", "d/../h", "d/up", "dd/up", "two", s.path("h"), s.path("dd//../h"), "h%00trailing"} {
				reach(s, name, "h")
			}
			s.near.all("chdir d")
			reach(s, "../h", "h")
			s.near.all("chdir ..", "socket 5 stream", "connectname 5 h", "getpeername 5", "getpeername 5 2", "getpeername 5 4", "getpeername 5 0")
			s.far.all("accept 5 6")
		}},
		{name: "108 bytes", fails: "ECONNREFUSED", play: func(s *stage) {
			s.far.all("umask 0", "socket 5 stream", "bind 5 h1", "listen 5 9")
			s.near.all("socket 5 stream", "connect 5 "+long+" 110", "socket 6 stream",
				"connect 6 "+long[1:]+" 109", "connect 6 "+long[2:]+" 109")
			s.peer(5, long, "h1")
			s.near.all("socket 7 stream", "bind 7 "+long[:106]+"n2 110", "getsockname 7", "listen 7 1",
				"socket 8 stream", "bind 8 "+long[:106]+"n2 110", "stat n2")
			s.far.all("accept 5 6", "accept 5 6", "socket 7 stream", "connect 7 n2")
			s.near.all("accept 7 9", "getsockname 9")
		}},
		{name: "bind", fails: "EOPNOTSUPP", play: func(s *stage) {
			s.far.all("umask 0", "mkdir d", "symlink d dd")
			s.near.all("umask 0")
			for _, n := range [][2]string{{"n", "n"}, {"./n", "n"}, {".//n", "n"}, {"d/n", "d/n"}, {"dd/n", "d/n"}, {"d/../n", "n"},
				{s.path("n"), "n"}, {s.path("dd//n"), "d/n"}, {"n%00trailing", "n"}} {
				serve(s, n[0], n[1])
			}
			s.near.all("socket 5 stream", "bindname 5 whole", "getsockname 5", "getsockname 5 5", "socket 6 stream", "bind 6 tail 60", "getsockname 6")
		}},
		{name: "peer", fails: "EOPNOTSUPP", play: func(s *stage) {
			s.near.all("umask 0", "socket 5 stream", "bind 5 n", "listen 5 5")
			names := []string{"-", "c", s.path("c2")}
			if s.way.inFolder() { // which has no other names for its own sockets
				names = names[:2]
			}
			for _, name := range names {
				s.far.all("socket 7 stream")
				if name != "-" {
					s.far.Want("ok", "bind 7 %s", strings.ReplaceAll(name, s.rig.View+"/", s.rig.Host+"/"))
				}
				s.far.all("connect 7 n")
				s.near.all("accept 5 6", "getpeername 6")
			}
		}},
		{name: "bound client", fails: "EOPNOTSUPP", play: func(s *stage) {
			s.far.all("umask 0", "socket 5 stream", "bind 5 h", "listen 5 9")
			s.near.all("socket 5 stream", "bind 5 c", "connect 5 h", "getsockname 5", "getpeername 5", "send 5 x")
			s.far.all("accept 5 6", "getpeername 6", "recv 6 4")
			s.near.all("close 5", "socket 5 stream", "bind 5 c", "unlink c", "bind 5 c", "connect 5 h")
			s.far.all("recv 6 4", "accept 5 6")
		}},
		{name: "/proc/self/fd", fails: "ECONNREFUSED", play: func(s *stage) {
			s.far.all("umask 0", "mkdir d", "socket 5 stream", "bind 5 d/h", "listen 5 9")
			s.near.all("open 10 d", "open 11 d/h")
			reach(s, "/proc/self/fd/10/h", "h")
			reach(s, "/proc/self/fd/11", "h")
			s.near.all("socket 5 stream", "bind 5 /proc/self/fd/10/n", "getsockname 5", "listen 5 1")
			s.far.all("socket 7 stream", "connect 7 d/n")
			s.near.all("accept 5 6")
		}},
		{name: "escapes", fails: "EOPNOTSUPP", play: func(s *stage) {
			s.near.all("umask 0")
			for _, name := range []string{"a:b", "a*b", "a?b", "%22q%22", "<a>", "a|b", "a%5cb", "dot.", "blank%20", "%c3%bc", "%01%1f", "con", "aux.txt", "a%25b"} {
				serve(s, name, name)
				s.far.all("socket 5 stream", "bind 5 "+name, "listen 5 1", "chmod 777 "+name)
				reach(s, name, name)
				s.far.all("close 5", "unlink "+name)
			}
		}},
		{name: "mode", fails: "EOPNOTSUPP", play: func(s *stage) {
			for _, m := range []string{"0", "22", "77", "777", "177"} {
				s.near.all("umask "+m, "socket 5 stream", "bind 5 n"+m)
				s.far.all("stat n" + m)
			}
			s.near.all("umask 0", "socket 5 stream", "fchmod 5 640", "bind 5 f")
			s.far.all("stat f")
		}},
	})
}
