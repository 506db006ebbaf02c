//go:build linux

package wine

import (
	"fmt"
	"os/exec"
	"testing"
)

// directions plays part with the server on Windows and the client in run, and
// the other way round.
func (s *stage) directions(part func(s *stage, server, client func(...string) *exec.Cmd)) {
	guest := func(s *stage) func(...string) *exec.Cmd {
		return func(args ...string) *exec.Cmd { return s.run(append([]string{s.peer()}, args...)...) }
	}
	windows := func(s *stage) func(...string) *exec.Cmd {
		return func(args ...string) *exec.Cmd { return s.win(peerExe, args...) }
	}
	t := s.t
	t.Run("server on Windows", func(t *testing.T) {
		sub := s.world.stage(t)
		part(sub, windows(sub), guest(sub))
	})
	t.Run("server in run", func(t *testing.T) {
		sub := s.world.stage(t)
		part(sub, guest(sub), windows(sub))
	})
}

// swarm has n connections at once carry size bytes each way.
func (s *stage) swarm(n, size int) {
	s.directions(func(s *stage, server, client func(...string) *exec.Cmd) {
		p := s.start(server("echo", "s")).says("listening")
		s.want("client", s.output(client("swarm", "s", fmt.Sprint(n), fmt.Sprint(size))),
			fmt.Sprintf("%d connections, %d bytes each way on each\n", n, size))
		if left, code := p.end(); len(left) > 0 || code != 0 {
			s.t.Errorf("server: exit code %d, lines %q", code, left)
		}
		s.absent("s")
	})
}

func many(s *stage) { s.swarm(200, 64<<10) }

func bulk(s *stage) { s.swarm(1, 20<<20) }

// halfClose closes the client's direction first, then the server's.
func halfClose(s *stage) {
	s.directions(func(s *stage, server, client func(...string) *exec.Cmd) {
		p := s.start(server("answer", "s")).says("listening")
		s.want("ask", s.output(client("ask", "s")), "done\n")
		if left, code := p.end(); len(left) > 0 || code != 0 {
			s.t.Errorf("server: exit code %d, lines %q", code, left)
		}
		p = s.start(server("first", "s")).says("listening")
		c := s.start(client("after", "s"))
		p.says("got" + c.line(limit)[len("sent"):])
		c.says("done")
		if left, code := p.end(); len(left) > 0 || code != 0 {
			s.t.Errorf("server: exit code %d, lines %q", code, left)
		}
	})
}
