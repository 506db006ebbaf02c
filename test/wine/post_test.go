//go:build linux

package wine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"drvsock/test/rig"
)

// TestWine plays all on one drive C, since a world takes seconds to make.
func TestWine(t *testing.T) {
	w := newWorld(t)
	for _, play := range []struct {
		name string
		play func(*stage)
	}{
		{"commands", commands},
		{"daemon's commands", daemonCommands},
		{"pipe server", pipeServer},
		{"pipe client", pipeClient},
		{"refused caller", refusedCaller},
		{"DACLs", dacls},
		{"socket forwards", socketForwards},
		{"pipes of go-winio", pipesOfWinio},
		{"denied folders", deniedFolders},
		{"assuan server", assuanServer},
		{"assuan client", assuanClient},
		{"cygwin server", cygwinServer},
		{"cygwin client", cygwinClient},
		{"Pageant", pageantServer},
		{"Pageant client", pageantClient},
		{"post's server", postServer},
		{"post's server in run", postServerInRun},
		{"permissions", permissions},
		{"errnos", errnos},
		{"names", names},
		{"long path", longPath},
		{"many", many},
		{"half-close", halfClose},
		{"bulk", bulk},
		{"command ends", commandEnds},
		{"agent killed", agentKilled},
		{"agent killed in mid-transfer", agentKilledMoving},
		{"agent killed under forwards", agentKilledForwards},
		{"supervisor killed", supervisorKilled},
	} {
		t.Run(play.name, func(t *testing.T) { play.play(w.stage(t)) })
	}
}

// accounts runs part as the caller and, if that is root, as an ordinary user who
// is not the account of Windows programs either.
func (s *stage) accounts(part func(*stage)) {
	t := s.t
	t.Run("caller", func(t *testing.T) { part(s.world.stage(t)) })
	t.Run("user", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("needs root for another account")
		}
		sub := s.world.stage(t)
		sub.uid = rig.User
		open(t, sub.host)
		part(sub)
	})
}

// open lets every account make files in dir.
func open(t *testing.T, dir string) {
	t.Helper()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
}

// onOneMachine is what the post's client prints against a server that does what
// the Windows one does, both on Linux.
func (s *stage) onOneMachine(client string) string {
	s.t.Helper()
	dir := rig.Dir(s.t)
	server := s.start(s.command(0, dir, []string{s.peer(), "post", "server.sock"}))
	server.says("Accepting connections on: 'server.sock'")
	defer server.wait()
	return s.both(s.command(0, dir, []string{client}))
}

// postServer has the post's server for Windows and its client for Linux talk.
func postServer(s *stage) {
	const text = "af_unix from Windows to WSL!"
	client := rig.Seed(s.t, "client")
	want := s.onOneMachine(client)
	if !strings.Contains(want, "received: 28 bytes, "+text) {
		s.t.Fatalf("on one machine the client prints %q", want)
	}
	s.accounts(func(s *stage) {
		first := "Accepting connections on: 'server.sock'"
		var server *talker
		var lines []string
		if _, ok := s.name[serverExe]; ok {
			server = s.start(s.win(serverExe))
			// Its words stay in its buffer until it ends.
			s.listens("server.sock")
		} else {
			server = s.start(s.win(peerExe, "post", "server.sock")).says(first)
			lines = append(lines, first)
		}
		// With the client's own name, as the post has it, it fails at bind.
		if out := s.both(s.inView(client)); !strings.Contains(out, "Operation not supported") {
			s.t.Errorf("without drvsock the client prints %q", out)
		}
		if s.uid != 0 {
			// Wine has made the socket's file with a umask. A drive without
			// metadata shows what every account may write.
			if out := s.both(s.run(client)); !strings.Contains(out, "connect error: Permission denied") {
				s.t.Errorf("where the socket is not writable the client prints %q", out)
			}
			s.writable("server.sock")
		}
		if out := s.both(s.inView(s.peer(), "get", "server.sock")); !strings.Contains(out, "connection refused") {
			s.t.Errorf("without drvsock a client that doesn't bind prints %q", out)
		}
		s.want("client", s.both(s.run(client)), want)
		left, code := server.wait()
		if d := cmp.Diff([]string{
			first,
			"Accepted a connection.",
			"Relayed 28 bytes: '" + text + "'",
			"Shutting down",
		}, append(lines, left...)); d != "" || code != 0 {
			s.t.Errorf("server: exit code %d, lines (-want +got):\n%s", code, d)
		}
		s.absent("server.sock")
		s.absent("client.sock")
	})
}

// writable lets every account connect to the socket.
func (s *stage) writable(name string) {
	s.t.Helper()
	if err := os.Chmod(filepath.Join(s.host, name), 0o666); err != nil {
		s.t.Fatal(err)
	}
}

// listens waits until a Windows program has bound name; listen follows at once.
func (s *stage) listens(name string) {
	s.t.Helper()
	if !soon(limit, func() bool {
		st, err := os.Stat(filepath.Join(s.host, name))
		return err == nil && st.Size() > 0
	}) {
		s.t.Fatalf("%s: no socket", name)
	}
}

// postServerInRun has Windows programs reach the post's server for Linux.
func postServerInRun(s *stage) {
	server := rig.Seed(s.t, "server")
	const text = "this is a test"
	// What the server prints on one machine, to a client that doesn't bind.
	plain := rig.Dir(s.t)
	native := s.start(s.command(0, plain, []string{server}))
	first := []string{native.line(limit), native.line(limit)}
	s.want("on one machine", s.output(s.command(0, plain, []string{s.peer(), "get", "server.sock"})), text)
	want, _ := native.wait()
	want = append(first, want...)
	if len(want) != 4 {
		s.t.Fatalf("on one machine the server prints %q", want)
	}
	s.accounts(func(s *stage) {
		for _, client := range []string{peerExe, winsockExe} {
			s.t.Run(client, func(t *testing.T) {
				s := *s
				s.t = t
				p := s.start(s.run(server))
				got := []string{p.line(limit), p.line(limit)}
				s.want("client", s.output(s.win(client, "get", "server.sock")), text)
				left, code := p.wait()
				if d := cmp.Diff(want, append(got, left...)); d != "" || code != 0 {
					t.Errorf("server: exit code %d, lines as on one machine (-) and here (+):\n%s", code, d)
				}
				s.absent("server.sock")
			})
		}
	})
}

// permissions are the post's three samples: either side can say no.
func permissions(s *stage) {
	uid, gid := s.wine.User()
	if os.Geteuid() != 0 {
		s.t.Skip("needs root for other accounts")
	}
	bind := rig.Seed(s.t, "bind")
	dir := filepath.Join(s.host, "d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	const words = "binding to: 'bind.sock'\n"
	const denied = words + "server bind error: Permission denied\n"
	for _, c := range []struct {
		name  string
		guest uint32
		owner [2]int
		mode  os.FileMode
		want  string
	}{
		{"no Windows permission", 0, [2]int{0, 0}, 0o755, denied},
		{"no Windows permission, a user", rig.User, [2]int{rig.User, rig.User}, 0o755, denied},
		{"Windows permission", 0, [2]int{uid, gid}, 0o755, words},
		{"no Linux permission", rig.User, [2]int{uid, gid}, 0o755, denied},
		{"both", rig.User, [2]int{uid, gid}, 0o777, words},
		{"both by the group", rig.User, [2]int{uid, rig.User}, 0o775, words},
	} {
		s.t.Run(c.name, func(t *testing.T) {
			for _, err := range []error{os.Chown(dir, c.owner[0], c.owner[1]), os.Chmod(dir, c.mode)} {
				if err != nil {
					t.Fatal(err)
				}
			}
			s := *s
			s.t, s.uid = t, c.guest
			cmd := s.run(bind)
			cmd.Dir = filepath.Join(s.view, "d")
			s.want("bind", s.both(cmd), c.want)
			s.absent("d/bind.sock")
		})
	}
}

// commands of drvsock.exe itself.
func commands(s *stage) {
	version := strings.TrimSpace(s.output(s.command(0, s.dir, []string{s.bin, "--version"})))
	table := filepath.Join(s.host, "mountinfo")
	err := os.WriteFile(table, []byte("20 1 0:20 / /mnt/c rw,noatime - 9p drvfs rw,dirsync,aname=drvfs;path=C:\\;uid=0;gid=0;symlinkroot=/mnt/,mmap,access=client,msize=65536,trans=fd,rfd=8,wfd=8\n"), 0o644)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--version"}, 0, version + "\n"},
		{[]string{"run", "--", "true"}, 125, "drvsock: error: run: unsupported operation on this system: it is for the Linux side\n"},
		{[]string{"path", "--mountinfo", "mountinfo", `C:\tmp\x.sock`}, 0, "/mnt/c/tmp/x.sock\n"},
		{[]string{"agent", "--nosuch"}, 2, "drvsock: error: unknown flag: --nosuch\ndrvsock: hint: drvsock agent --help\n"},
	} {
		cmd := s.command(0, s.host, append([]string{s.wine.Wrapper(), s.wine.Windows(s.exe)}, c.args...))
		s.want(fmt.Sprint(c.args), s.both(cmd), c.want)
		if code := cmd.ProcessState.ExitCode(); code != c.code {
			s.t.Errorf("%q: exit code %d, want %d", c.args, code, c.code)
		}
	}
}
