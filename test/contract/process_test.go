//go:build linux

package contract

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"drvsock/test/rig"
)

// TestProcesses is C16: threads and children, and what they inherit.
func TestProcesses(t *testing.T) {
	play(t, processes)
	t.Run(ways[3].name, func(t *testing.T) { playBy(t, ways[3], processes) })
}

// processes are scenarios in which a program is more than one task.
var processes = func() []scenario {
	host := func(s *stage) { s.far.all("umask 0", "socket 5 stream", "bind 5 h", "listen 5 9") }
	return []scenario{
		{name: "thread", fails: "ECONNREFUSED", play: func(s *stage) {
			host(s)
			s.near.all("socket 5 stream", "thread connect 5 h", "thread send 5 x", "socket 6 stream", "thread bind 6 n",
				"thread listen 6 2", "thread connect 6 h", "thread connect 7 h")
			s.far.all("accept 5 6", "recv 6 3", "stat n")
		}},
		{name: "vfork", fails: "ECONNREFUSED", play: func(s *stage) {
			host(s)
			s.near.all("socket 5 stream", "vfork connect 5 h", "send 5 x", "socket 6 stream", "vfork bind 6 n", "getsockname 6",
				"vfork listen 6 3")
			s.far.all("accept 5 6", "recv 6 3", "socket 7 stream", "connect 7 n")
			s.near.all("accept 6 7")
		}},
		{name: "fork", fails: "ECONNREFUSED", play: func(s *stage) {
			host(s)
			s.near.all("umask 0", "socket 5 stream", "socket 6 stream", "bind 6 n", "socket 8 stream", "bind 8 m", "listen 8 2", "fork",
				"connect 5 h", "send 5 x", "listen 6 2", "fork")
			s.far.all("accept 5 6", "recv 6 3", "socket 7 stream", "connect 7 n", "socket 8 stream", "connect 8 m")
			s.near.all("accept 6 7", "accept 8 9", "close 5", "fork")
			s.far.all("poll 6 0", "send 6 y") // the parents still have it
		}},
		{name: "exec", fails: "ECONNREFUSED", play: func(s *stage) {
			host(s)
			s.near.all("umask 0", "socket 5 stream", "connect 5 h", "socket 6 stream", "bind 6 n", "socket 7 stream cloexec", "bind 7 gone",
				"exec", "send 5 x", "listen 6 2", "getsockname 6", "getsockname 7", "socket 9 stream", "connect 9 h", "sleep 300")
			s.far.all("accept 5 6", "recv 6 3", "socket 7 stream", "connect 7 n", "socket 8 stream", "connect 8 gone")
			s.near.all("accept 6 8")
		}},
		{name: "daemon", fails: "ECONNREFUSED", play: func(s *stage) {
			host(s)
			s.near.all("umask 0", "socket 5 stream", "connect 5 h", "socket 6 stream", "bind 6 n", "listen 6 2", "daemon", "sleep 1500",
				"send 5 x", "socket 7 stream", "connect 7 h", "send 7 y", "socket 8 stream", "bind 8 m", "listen 8 1")
			s.far.all("accept 5 6", "recv 6 3", "accept 5 7", "recv 7 3", "socket 8 stream", "connect 8 n", "socket 9 stream", "connect 9 m")
			s.near.all("accept 6 10", "accept 8 11")
		}},
		{name: "not dumpable", fails: "ECONNREFUSED", play: func(s *stage) {
			host(s)
			s.near.all("dumpable 0", "socket 5 stream", "connect 5 h", "send 5 x", "fork", "socket 6 stream", "connect 6 h")
			s.far.all("accept 5 6", "recv 6 3")
		}},
	}
}()

// TestFullBacklog is what a connect does that finds no room at the host's
// listener: it waits, and can be interrupted, as natively.
func TestFullBacklog(t *testing.T) {
	play(t, []scenario{{name: "backlog", fails: "ECONNREFUSED", play: func(s *stage) {
		s.far.all("umask 0", "socket 5 stream", "bind 5 h", "listen 5 0")
		s.near.all("socket 5 stream nonblock", "connect 5 h", "socket 6 stream nonblock", "connect 6 h",
			"timed connect 6 h", "nonblock 6 0",
			"timeout 6 send 400", "timed connect 6 h", "timeout 6 send 0",
			"alarm 300 interrupt", "timed connect 6 h", "socket 7 stream", "alarm 300 interrupt", "timed connect 7 h")
		if !s.way.mount { // there it is EINTR for each handler
			s.near.do("alarm 300 restart")
		}
		s.near.Ask("timed connect 6 h")
		if !s.near.Quiet(500e6) {
			s.note("connect ended though there was no room")
		}
		s.far.all("accept 5 6")
		s.near.answer("connect")
		s.far.all("accept 5 7")
		s.near.all("send 6 x")
		s.far.all("recv 7 3")
	}}})
}

// number is N of "ok N".
func number(t *testing.T, answer string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimPrefix(answer, "ok "))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestWrappers has the program started by programs that change what surrounds
// it: other ids, other namespaces, another environment.
func TestWrappers(t *testing.T) {
	for _, acc := range accounts {
		o := rig.Options{Agent: acc.uid, Program: acc.uid}
		through := rig.New(t, o)
		o.Plain = true
		native := rig.New(t, o)
		for _, w := range []struct {
			argv string
			root bool
		}{
			{"env -i", false}, {"nice", false}, {"setsid -w", false}, {"setpriv --no-new-privs", false}, {"unshare -Ur", false}, {"unshare -Urm", false},
			{"unshare -Urmpf --mount-proc", false}, {"unshare -m", true}, {"unshare -mpf --mount-proc", true}, {"sudo -n -u nobody", true},
			{"setpriv --reuid 44002 --regid 44002 --clear-groups", true}, {"setpriv --bounding-set=-all --inh-caps=-all", true}, {"unshare -n", true},
			{"strace -f -o /dev/null", false}, {"sh -c exec\u00a0\"$0\"", false}, {"timeout 20", false},
		} {
			t.Run(acc.name+"/"+w.argv, func(t *testing.T) {
				if w.root && acc.uid != 0 {
					t.Skip("needs root")
				}
				argv := strings.Split(w.argv, " ")
				for i := range argv {
					argv[i] = strings.ReplaceAll(argv[i], "\u00a0", " ")
				}
				if _, err := exec.LookPath(argv[0]); err != nil {
					t.Skip(err)
				}
				if out, err := native.InView(append(argv, "true")...).Output(); err != nil {
					t.Skipf("not possible here: %v %s", err, out)
				}
				sc := scenario{argv: argv, play: func(s *stage) {
					s.far.all("umask 0", "socket 5 stream", "bind 5 h", "listen 5 9", "mkdir no")
					if !strings.HasPrefix(w.argv, "unshare -U") {
						// Natively root of a user namespace may enter. Its rights don't
						// count in run, where such a bind stays one without drvsock.
						s.far.all("chmod 0 no")
					}
					s.near.all("umask 0", "socket 5 stream", "connect 5 h", "send 5 x", "socket 6 stream", "bind 6 n", "listen 6 1",
						"bind 77 x", "socket 8 stream", "bind 8 no/x", "socket 9 stream", "connect 9 missing")
					s.far.all("accept 5 6", "recv 6 4", "socket 7 stream", "connect 7 n", "send 7 y", "chmod 700 no")
					s.near.all("accept 6 7", "recv 7 3")
				}}
				want := perform(t, native, acc, nil, "", sc)
				got := perform(t, through, acc, through.Run, "", sc)
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("natively (-) is not as through drvsock (+):\n%s", d)
				}
			})
		}
	}
}
