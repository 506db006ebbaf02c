//go:build linux

package wine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// within bounds how long a program learns late that its other end is lost.
const within = 5 * time.Second

// agentKilled kills drvsock.exe while programs wait: those get an error or an
// end, and the listener comes back by itself.
func agentKilled(s *stage) {
	s.start(s.win(peerExe, "echo", "windows")).says("listening")
	p := rig.StartProbe(s.t, s.run(rig.ProbeProgram(s.t)))
	for _, call := range []string{
		"socket 5 stream", "bind 5 linux", "listen 5 9",
		"socket 6 stream", "connect 6 windows",
	} {
		p.Want("ok", "%s", call)
	}
	p.Do("send 6 x")
	p.Want("ok 1 x", "recv 6 9")
	c := s.start(s.win(peerExe, "get", "linux"))
	if got := p.Do("accept 5 7"); !strings.HasPrefix(got, "ok") {
		s.t.Fatalf("accept: %q", got)
	}
	p.Ask("recv 6 9")
	if !p.Quiet(100 * time.Millisecond) {
		s.t.Fatal("nothing was sent")
	}
	killed := s.agent()
	_ = unix.Kill(killed, unix.SIGKILL)
	begin := time.Now()
	s.want("recv of the connected one", p.Answer(), "ECONNRESET")
	c.line(within)
	s.t.Logf("both ends knew after %v", time.Since(begin))
	p.Want("ECONNRESET", "recv 7 9")

	// What is new works.
	p.Want("ok", "socket 8 stream")
	p.Want("ok", "connect 8 windows")
	p.Do("send 8 y")
	p.Want("ok 1 y", "recv 8 9")
	if !soon(10*time.Second, func() bool {
		c = s.start(s.win(winsockExe, "get", "linux"))
		return c.quiet(500 * time.Millisecond) // else it was refused
	}) {
		s.t.Fatal("the listener has not come back")
	}
	if got := p.Do("accept 5 9"); !strings.HasPrefix(got, "ok") {
		s.t.Fatalf("accept: %q", got)
	}
	p.Do("send 9 hello%%0A")
	p.Want("ok", "close 9")
	c.says("hello").wait()
	if s.agent() == killed {
		s.t.Error("the agent is the one that was killed")
	}
}

// agentKilledMoving kills drvsock.exe while bytes flow. The program in run must
// learn of it. Whether the one on Windows does is Wine's affair, whose server
// may keep a socket of a process that was killed within a system call.
func agentKilledMoving(s *stage) {
	t := s.t
	t.Run("client in run", func(t *testing.T) {
		s := s.world.stage(t)
		p := s.start(s.win(peerExe, "echo", "s")).says("listening")
		c := s.start(s.run(s.peer(), "hold", "s")).says("moving")
		_ = unix.Kill(s.agent(), unix.SIGKILL)
		s.want("read", c.line(within), "read ended: read unix @->s: read: connection reset by peer")
		s.want("write", c.line(within), "write ended: write unix @->s: write: broken pipe")
		p.abandon()
	})
	t.Run("server in run", func(t *testing.T) {
		s := s.world.stage(t)
		p := s.start(s.run(s.peer(), "echo", "s")).says("listening")
		c := s.start(s.win(peerExe, "hold", "s")).says("moving")
		_ = unix.Kill(s.agent(), unix.SIGKILL)
		// It may have been reading or writing.
		if l := p.line(within); !strings.HasPrefix(l, "connection: ") {
			t.Errorf("server says %q", l)
		}
		c.abandon()
	})
}

// supervisorKilled kills the guest's side: the agent's stdin closes, so it ends
// and takes the sockets' files with it.
func supervisorKilled(s *stage) {
	p := rig.StartProbe(s.t, s.run(rig.ProbeProgram(s.t)))
	for _, call := range []string{
		"socket 5 stream", "bind 5 listens", "listen 5 9", "socket 6 stream", "bind 6 bound",
		"socket 7 stream", "bind 7 stale", "close 7",
	} {
		p.Want("ok", "%s", call)
	}
	// The supervisor looks for closed sockets every 50 ms, and the agent hears of
	// it after that; until then the file would be taken for one still in use.
	time.Sleep(time.Second)
	agent := s.agent()
	supervisors := s.processes("drvsock:supervise")
	if len(supervisors) != 1 {
		s.t.Fatalf("supervisors: %v", supervisors)
	}
	_ = unix.Kill(supervisors[0], unix.SIGKILL)
	if !soon(within, func() bool { return unix.Kill(agent, 0) != nil }) {
		s.t.Error("the agent lives on")
	}
	s.absent("listens")
	s.absent("bound")
	if _, err := os.Stat(filepath.Join(s.host, "stale")); err != nil {
		s.t.Error(err)
	}
}

// commandEnds has a program end as it is: its sockets' files stay, as on one
// machine, and the agent ends with drvsock.
func commandEnds(s *stage) {
	p := rig.StartProbe(s.t, s.run(rig.ProbeProgram(s.t)))
	for _, call := range []string{"socket 5 stream", "bind 5 listens", "listen 5 9", "socket 6 stream", "bind 6 bound"} {
		p.Want("ok", "%s", call)
	}
	agent := s.agent()
	if code := p.End(); code != 0 {
		s.t.Errorf("exit code %d", code)
	}
	if !soon(within, func() bool { return unix.Kill(agent, 0) != nil }) {
		s.t.Error("the agent lives on")
	}
	for _, name := range []string{"listens", "bound"} {
		if _, err := os.Stat(filepath.Join(s.host, name)); err != nil {
			s.t.Error(err)
		}
		s.want("connect", s.both(s.win(winsockExe, "get", name)), "connect: 10061\n")
	}
}
