//go:build linux

package forward

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"drvsock/test/rig"
)

// sshTools are OpenSSH's programs.
type sshTools struct{ agent, add, keygen, ssh, sshd string }

func openssh(t *testing.T) sshTools {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, since sshd lets in its own user alone otherwise, by the files of their home")
	}
	return sshTools{
		rig.Program(t, "openssh-client", "ssh-agent"), rig.Program(t, "openssh-client", "ssh-add"),
		rig.Program(t, "openssh-client", "ssh-keygen"), rig.Program(t, "openssh-client", "ssh"),
		rig.Program(t, "openssh-server", "sshd"),
	}
}

// An sshd is a server on loopback that lets in who has a key.
type sshd struct {
	b    *box
	port string
	tool sshTools
	key  string // file of the key, which has the agent alone in the end
	pub  string
}

func newSSHD(b *box, tool sshTools) *sshd {
	b.Helper()
	s := &sshd{b: b, tool: tool, key: b.path("key")}
	for _, name := range []string{"hostkey", "key"} {
		b.output(tool.keygen, "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", b.path(name))
	}
	pub, err := os.ReadFile(s.key + ".pub")
	b.check(err)
	s.pub = strings.TrimSpace(string(pub))
	if err := os.Mkdir("/run/sshd", 0o755); err != nil && !os.IsExist(err) { // of the service, for privilege separation
		b.check(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	b.check(err)
	_, s.port, _ = net.SplitHostPort(l.Addr().String())
	b.check(l.Close())
	conf := b.file(b.path("sshd_config"), fmt.Sprintf(`ListenAddress 127.0.0.1
Port %s
HostKey %s
AuthorizedKeysFile %s.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
`, s.port, b.path("hostkey"), s.key))
	cmd := b.command(tool.sshd, "-D", "-e", "-f", conf)
	cmd.Stderr = nil
	rig.Start(b.T, cmd, limit)
	b.eventually("sshd listens", func() error {
		c, err := net.Dial("tcp", "127.0.0.1:"+s.port)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	return s
}

// words are a shell's that log in with what the agent at $SSH_AUTH_SOCK has.
func (s *sshd) words(command string) string {
	return fmt.Sprintf("%s -F none -p %s -o BatchMode=yes -o IdentityFile=none -o PreferredAuthentications=publickey"+
		" -o StrictHostKeyChecking=no -o UserKnownHostsFile=%s -o LogLevel=ERROR -A root@127.0.0.1 %q",
		s.tool.ssh, s.port, s.b.path("known_hosts"), command)
}

// use adds the key to an agent, whose socket a shell knows by words, and logs in
// with it twice, the second time by the forwarded agent.
func (s *sshd) use(words string) {
	b := s.b
	b.Helper()
	run := func(line string) (string, int) {
		cmd := b.command("/bin/sh", "-c", words+line)
		cmd.Stderr = nil
		return rig.Output(b.T, cmd, limit)
	}
	if out, code := run(s.tool.add + " -l"); code != 1 || !strings.Contains(out, "no identities") {
		b.Errorf("ssh-add -l: exit code %d, %q", code, out)
	}
	if _, code := run(s.tool.add + " -q " + s.key); code != 0 {
		b.Fatalf("ssh-add: exit code %d", code)
	}
	if out, _ := run(s.tool.add + " -L"); strings.TrimSpace(out) != s.pub {
		b.Errorf("ssh-add -L: got %q, want %q", out, s.pub)
	}
	want := "in\n" + s.pub + "\nin again\n"
	again := strings.ReplaceAll(s.words("echo in again"), `"`, `'`)
	if out, code := run(s.words("echo in; " + s.tool.add + " -L; " + again)); out != want || code != 0 {
		b.Errorf("ssh: exit code %d, %q, want %q", code, out, want)
	}
	if _, code := run(s.tool.add + " -q -D"); code != 0 {
		b.Errorf("ssh-add -D: exit code %d", code)
	}
	if _, code := run(s.words("echo in")); code != 255 {
		b.Errorf("ssh without a key: exit code %d, want 255", code)
	}
}

// TestSSHAgent: the host's agent here by the preset, and the guest's there.
func TestSSHAgent(t *testing.T) {
	t.Parallel()
	tool := openssh(t)
	b := upBox(t, 0)
	s := newSSHD(b, tool)
	b.start(tool.agent, "-D", "-a", b.host("agent.sock"))
	b.start(tool.agent, "-D", "-a", b.path("agent.sock"))
	b.listens(b.host("agent.sock"))
	b.listens(b.path("agent.sock"))

	b.drvsock("preset", "add", "ssh-agent", "--connect", b.win("agent.sock"))
	s.use(`eval "$(drvsock env --shell sh)"; `)
	f := b.forward("ssh-agent")
	if f.Refused+f.Failed > 0 || f.Total < 6 || f.In == 0 || f.Out == 0 || f.LastError != nil {
		t.Errorf("status: %+v", f)
	}
	b.logged("forward=ssh-agent", "program=ssh")
	b.drvsock("forward", b.win("back.sock"), b.path("agent.sock"))
	s.use("SSH_AUTH_SOCK=" + b.host("back.sock") + "; export SSH_AUTH_SOCK; ")
}

// TestOldSSHAgent: one that hangs up on extensions, as that of Windows before
// OpenSSH 8.9 does, with which ssh begins since.
func TestOldSSHAgent(t *testing.T) {
	t.Parallel()
	tool := openssh(t)
	b := upBox(t, 0)
	s := newSSHD(b, tool)
	b.start(tool.agent, "-D", "-a", b.host("agent.sock"))
	b.listens(b.host("agent.sock"))
	hungUp := oldAgent(b, b.host("old.sock"), b.host("agent.sock"))

	b.drvsock("forward", "--name", "plain", "plain.sock", b.win("old.sock"))
	plain := "SSH_AUTH_SOCK=" + b.path("plain.sock") + "; export SSH_AUTH_SOCK; "
	b.output("/bin/sh", "-ec", plain+tool.add+" -q "+s.key)
	b.fails(255, "/bin/sh", "-c", plain+s.words("echo in"))
	if hungUp() == 0 {
		t.Fatal("the old agent was asked for no extension: nothing is shown")
	}
	b.output("/bin/sh", "-ec", plain+tool.add+" -q -D")

	b.drvsock("preset", "add", "ssh-agent", "--connect", b.win("old.sock"))
	before := hungUp()
	s.use(`eval "$(drvsock env --shell sh)"; `)
	if n := hungUp() - before; n != 1 {
		t.Errorf("the agent was asked for %d extensions, want 1 for the link", n)
	}
	b.logged("forward=ssh-agent", "asked the agent", "extensions=false")
}

// oldAgent is an agent that closes the connection at an extension, and else what
// the agent at real is. It tells how often it has done so.
func oldAgent(b *box, path, real string) (hungUp func() int) {
	b.Helper()
	l, err := net.Listen("unix", path)
	b.check(err)
	var mu sync.Mutex
	count := 0
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				a, err := net.Dial("unix", real)
				if err != nil {
					return
				}
				defer a.Close()
				work.Go(func() {
					_, _ = io.Copy(c, a)
					_ = c.Close()
				})
				for {
					var head [5]byte // length and number
					if _, err := io.ReadFull(c, head[:]); err != nil {
						return
					}
					if head[4] == 27 { // SSH_AGENTC_EXTENSION
						mu.Lock()
						count++
						mu.Unlock()
						return
					}
					if _, err := a.Write(head[:]); err != nil {
						return
					}
					if _, err := io.CopyN(a, c, int64(binary.BigEndian.Uint32(head[:]))-1); err != nil {
						return
					}
				}
			})
		}
	})
	b.Cleanup(func() {
		_ = l.Close()
		work.Wait()
	})
	b.check(os.Chmod(path, 0o666))
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return count
	}
}
