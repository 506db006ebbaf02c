//go:build linux

package programs

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// TestSSHAgent has keys added, listed and used through OpenSSH's agent.
func TestSSHAgent(t *testing.T) {
	t.Parallel()
	agent, add, keygen := program(t, "openssh-client", "ssh-agent"), program(t, "openssh-client", "ssh-add"), program(t, "openssh-client", "ssh-keygen")
	everywhere(t, func(p *play) {
		p.failsToServe(agent, "-D", "-a", p.client.path("none"))
		server := p.server.start(agent, "-D", "-a", p.server.path("agent"))
		p.listens(server, "agent")
		useSSHAgent(p, add, keygen)
		_ = server.End(unix.SIGTERM) // 2: it says that a signal ended it
		if _, err := os.Lstat(p.hostPath("agent")); !os.IsNotExist(err) {
			p.Errorf("ssh-agent removes its socket at the end, here it is still: %v", err)
		}
	})
}

// TestSSHAgentDaemon lets the agent go to the background: run ends with the
// process that was started, and the agent serves on.
func TestSSHAgentDaemon(t *testing.T) {
	t.Parallel()
	agent, add, keygen := program(t, "openssh-client", "ssh-agent"), program(t, "openssh-client", "ssh-add"), program(t, "openssh-client", "ssh-keygen")
	everywhere(t, func(p *play) {
		cmd := p.server.command(agent, "-s", "-a", p.server.path("agent"))
		cmd.Stderr = nil // what goes on in the background holds it
		out := output(p.T, cmd)
		_, rest, _ := strings.Cut(out, "SSH_AGENT_PID=")
		word, _, _ := strings.Cut(rest, ";")
		pid, err := strconv.Atoi(word)
		if err != nil {
			p.Fatalf("ssh-agent says %q", out)
		}
		p.Cleanup(func() { _ = unix.Kill(pid, unix.SIGKILL) })
		useSSHAgent(p, add, keygen)
		if err := unix.Kill(pid, unix.SIGTERM); err != nil {
			p.Error(err)
		}
		if left := p.server.rig.WaitGone(limit); len(left) > 0 {
			p.Errorf("the agent is gone, but not all that served it: %v", left)
		}
	})
}

func useSSHAgent(p *play, add, keygen string) {
	p.Helper()
	dir := p.folder()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		p.Fatal(err)
	}
	key := filepath.Join(dir, "key")
	local := p.client
	local.guest = false
	local.output(keygen, "-q", "-t", "ed25519", "-N", "", "-C", "a key", "-f", key)
	pub, err := os.ReadFile(key + ".pub")
	if err != nil {
		p.Fatal(err)
	}
	with := func(argv ...string) []string {
		return append([]string{"/usr/bin/env", "SSH_AUTH_SOCK=" + p.client.path("agent")}, argv...)
	}
	p.failsWithout(with(add, key)...)
	p.client.output(with(add, "-q", key)...)
	if got := p.client.output(with(add, "-L")...); got != strings.TrimSpace(string(pub)) {
		p.Errorf("ssh-add -L: got %q, want %q", got, pub)
	}
	if err := os.Remove(key); err != nil { // the agent alone has it
		p.Fatal(err)
	}
	text := filepath.Join(dir, "text")
	local.output("/bin/sh", "-c", "echo something to sign >"+text)
	p.client.output(with(keygen, "-q", "-Y", "sign", "-f", key+".pub", "-n", "test", text)...)
	signers := file(p.T, filepath.Dir(dir), "signers", "me "+string(pub))
	local.output("/bin/sh", "-c", fmt.Sprintf("%s -q -Y verify -f %s -I me -n test -s %s.sig <%s", keygen, signers, text, text))
	p.client.output(with(add, "-q", "-D")...)
	out, code := rig.Output(p.T, p.client.command(with(add, "-l")...), limit)
	if code != 1 || !strings.Contains(out, "no identities") {
		p.Errorf("ssh-add -l after -D: exit code %d, %q", code, out)
	}
}

// TestGPGAgent lies on the drive by libassuan's redirection: the file where the
// socket would be says where it is. The client's home has another such file.
func TestGPGAgent(t *testing.T) {
	t.Parallel()
	agent, connect := program(t, "gnupg", "gpg-agent"), program(t, "gnupg", "gpg-connect-agent")
	gpg := program(t, "gnupg", "gpg")
	everywhere(t, func(p *play) {
		home := func(s side) string {
			dir := p.folder()
			if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
				p.Fatal(err)
			}
			file(p.T, dir, "S.gpg-agent", "%Assuan%\nsocket="+s.path("gpg")+"\n")
			return dir
		}
		serverHome, clientHome := home(p.server), home(p.client)
		start := p.server.command(agent, "--homedir", serverHome, "--daemon", "--disable-scdaemon")
		start.Stderr = nil // a pipe would last as long as what goes on in the background
		if err := start.Run(); err != nil {
			p.Fatal(err)
		}
		p.listens(nil, "gpg")
		ask := []string{connect, "--homedir", clientHome, "--no-autostart", "GETINFO pid", "/bye"}
		p.failsWithout(ask...)
		if got := p.client.output(ask...); !strings.HasPrefix(got, "D ") || !strings.HasSuffix(got, "\nOK") {
			p.Errorf("GETINFO pid: got %q", got)
		}
		at := []string{gpg, "--homedir", clientHome, "--no-autostart", "--batch", "--quiet", "--no-tty", "--passphrase", "", "--pinentry-mode", "loopback", "--trust-model", "always"}
		p.client.output(append(at, "--quick-generate-key", "Some One <one@example.org>", "ed25519", "sign", "never")...)
		// The secret key is where the agent is.
		if keys, _ := filepath.Glob(filepath.Join(serverHome, "private-keys-v1.d", "*.key")); len(keys) != 1 {
			p.Errorf("%d secret keys at the agent, want 1", len(keys))
		}
		sign := p.client.command(append(at, "--clearsign")...)
		sign.Stderr = nil
		sign.Stdin = strings.NewReader("something to sign\n")
		signed := output(p.T, sign)
		verify := p.client.command(append(at, "--verify")...)
		verify.Stderr = nil
		verify.Stdin = strings.NewReader(signed + "\n")
		output(p.T, verify)
		p.client.output(connect, "--homedir", clientHome, "--no-autostart", "KILLAGENT", "/bye")
		if left := p.server.rig.WaitGone(limit); len(left) > 0 {
			p.Errorf("the agent is gone, but not all that served it: %v", left)
		}
	})
}
