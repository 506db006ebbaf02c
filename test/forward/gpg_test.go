//go:build linux

package forward

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"drvsock/test/rig"
)

// TestGPG signs here with a key that the host's agent has, by GnuPG's stand-in
// for a socket, a file with a port and a nonce, which a forward makes on the host.
func TestGPG(t *testing.T) {
	t.Parallel()
	agent, connect := rig.Program(t, "gnupg", "gpg-agent"), rig.Program(t, "gnupg", "gpg-connect-agent")
	gpg := rig.Program(t, "gnupg", "gpg")
	var uid uint32
	if os.Geteuid() == 0 {
		uid = rig.Known(t)
	}
	b := upBox(t, uid)
	home := func(path string) []string {
		b.folder(path, 0o700)
		if got := b.output("gpgconf", "--homedir", path, "--list-dirs", "agent-socket"); got != filepath.Join(path, "S.gpg-agent") {
			t.Skipf("GnuPG's sockets are elsewhere for this account: %s", got)
		}
		return []string{gpg, "--homedir", path, "--batch", "--quiet", "--no-tty", "--trust-model", "always"}
	}
	there, here := home(b.host("gnupg")), slices.Clip(append(home(b.path("gnupg")), "--no-autostart"))

	// The host's own: an agent, and a key in it.
	start := b.command(agent, "--homedir", b.host("gnupg"), "--daemon", "--disable-scdaemon")
	start.Stderr = nil // a pipe would last as long as what goes on in the background
	b.check(start.Run())
	b.listens(b.host("gnupg/S.gpg-agent"))
	t.Cleanup(func() {
		b.output(connect, "--homedir", b.host("gnupg"), "--no-autostart", "KILLAGENT", "/bye")
	})
	b.output(append(there, "--passphrase", "", "--pinentry-mode", "loopback", "--quick-generate-key", "Some One <one@example.org>", "ed25519", "sign", "never")...)
	b.drvsock("forward", "--name", "stand-in", "assuan:"+b.win("gnupg/S.port"), b.win("gnupg/S.gpg-agent"))
	text, err := os.ReadFile(b.host("gnupg/S.port"))
	b.check(err)
	if st, err := os.Stat(b.host("gnupg/S.port")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the file with the nonce is %v, %v", st, err)
	}
	port, nonce, _ := strings.Cut(string(text), "\n")
	if _, err := strconv.ParseUint(port, 10, 16); err != nil || len(nonce) != 16 {
		t.Errorf("the stand-in says %q, want a port and 16 bytes", text)
	}

	// Here it takes the place of an agent.
	b.file(b.path("pub"), b.output(append(there, "--armor", "--export")...))
	b.output(append(here, "--import", b.path("pub"))...)
	sign := append(here, "--clearsign", "--output", "-", b.file(b.path("text"), "something to sign\n"))
	if out := b.fails(2, sign...); !strings.Contains(out, "No secret key") && !strings.Contains(out, "no gpg-agent running") {
		t.Errorf("gpg without an agent says %q", out)
	}
	b.env = append(b.env, "GNUPGHOME="+b.path("gnupg")) // where the preset looks
	b.drvsock("preset", "add", "gpg", "--connect", "assuan:"+b.win("gnupg/S.port"))
	ask := func(dir string) string {
		return b.output(connect, "--homedir", dir, "--no-autostart", "GETINFO pid", "/bye")
	}
	want := ask(b.host("gnupg"))
	if !strings.HasPrefix(want, "D ") || !strings.HasSuffix(want, "\nOK") {
		t.Fatalf("the host's agent says %q", want)
	}
	if got := ask(b.path("gnupg")); got != want {
		t.Errorf("GETINFO pid: got %q, want %q as on the host", got, want)
	}
	signed := b.file(b.path("text.asc"), b.output(sign...)+"\n")
	b.output(append(here, "--verify", signed)...)
	b.output(append(there, "--verify", signed)...)
	if keys, _ := filepath.Glob(b.path("gnupg/private-keys-v1.d/*")); len(keys) > 0 {
		t.Errorf("there are secret keys on the guest: %v", keys)
	}

	// A redirection leads further, for GnuPG and for drvsock.
	redirect := func(path, to string) {
		b.file(path, fmt.Sprintf("%%Assuan%%\nsocket=%s\n", to))
	}
	b.folder(b.path("other"), 0o700)
	redirect(b.path("other/S.gpg-agent"), b.path("gnupg/S.gpg-agent"))
	if got := ask(b.path("other")); got != want {
		t.Errorf("by a redirection here: got %q, want %q", got, want)
	}
	redirect(b.host("S.redirect"), b.host("gnupg/S.gpg-agent"))
	b.folder(b.path("third"), 0o700)
	b.drvsock("forward", "--name", "third", b.path("third/S.gpg-agent"), "assuan:"+b.win("S.redirect"))
	if got := ask(b.path("third")); got != want {
		t.Errorf("by a redirection there: got %q, want %q", got, want)
	}
	// The file is read anew for each connection: a new listener has another port.
	b.drvsock("forward", "rm", "stand-in")
	if out := b.fails(2, sign...); out == "" {
		t.Error("gpg says nothing of a lost agent")
	}
	b.drvsock("forward", "--name", "stand-in", "assuan:"+b.win("gnupg/S.port"), b.win("gnupg/S.gpg-agent"))
	b.output(sign...)
}
