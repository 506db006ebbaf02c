// Package preset knows the endpoints of programs that people want to reach
// across the border: what they listen on, where their clients look, and which
// variables tell them.
package preset

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"drvsock/internal/config"
	"drvsock/internal/report"
)

// A Preset is one such program. Listen and Connect are the forward's where they
// are the same for everybody; where they depend on the machine they say how.
type Preset struct {
	Name        string            `json:"name"`
	Description string            `json:"description"`
	Listen      string            `json:"listen"`
	Connect     string            `json:"connect"`
	Message     bool              `json:"message,omitempty"`
	Filter      string            `json:"filter,omitempty"`
	Env         map[string]string `json:"env,omitempty"`
	// Dir is which of `gpgconf --list-dirs` Listen is.
	Dir string `json:"-"`
}

// What Listen begins with where it depends on the machine.
const (
	own   = "{own}"     // the daemon's folder
	runs  = "{runtime}" // $XDG_RUNTIME_DIR
	temp  = "{temp}"    // the same, or where there is none what programs take in its place
	ofGPG = "gpgconf --list-dirs "
)

const opensshPipe = `\\.\pipe\openssh-ssh-agent`

var agentEnv = map[string]string{"SSH_AUTH_SOCK": "{listen}"}

// All are the presets, by name.
var All = []Preset{
	{Name: "1password", Description: "1Password's SSH agent on Windows, where 1Password for Linux has its own",
		Listen: "~/.1password/agent.sock", Connect: opensshPipe, Env: agentEnv},
	{Name: "bitwarden", Description: "Bitwarden's SSH agent on Windows, where Bitwarden for Linux has its own",
		Listen: "~/.bitwarden-ssh-agent.sock", Connect: opensshPipe, Env: agentEnv},
	{Name: "discord", Description: "Discord on Windows, for Rich Presence of Linux programs",
		Listen: temp + "/discord-ipc-0", Connect: `\\.\pipe\discord-ipc-0`},
	{Name: "docker", Description: "the Docker engine of this system, for the docker command of Windows",
		Listen: `\\.\pipe\docker_engine`, Connect: "/var/run/docker.sock", Message: true},
	{Name: "docker-desktop", Description: "Docker Desktop on Windows, for the docker command of this system",
		Listen: own + "/docker.sock", Connect: `\\.\pipe\docker_engine`, Env: map[string]string{"DOCKER_HOST": "unix://{listen}"}},
	{Name: "gpg", Description: "GnuPG's agent on Windows (Gpg4win), for gpg of this system",
		Listen: ofGPG + "agent-socket", Dir: "agent-socket", Connect: `assuan:%LOCALAPPDATA%\gnupg\S.gpg-agent`},
	{Name: "gpg-extra", Description: "the same with fewer rights, to be passed on to other machines by ssh",
		Listen: ofGPG + "agent-extra-socket", Dir: "agent-extra-socket", Connect: `assuan:%LOCALAPPDATA%\gnupg\S.gpg-agent.extra`},
	{Name: "gpg-ssh", Description: "the SSH agent in GnuPG's agent on Windows",
		Listen: ofGPG + "agent-ssh-socket", Dir: "agent-ssh-socket", Connect: `assuan:%LOCALAPPDATA%\gnupg\S.gpg-agent.ssh`, Env: agentEnv},
	{Name: "keepassxc", Description: "KeePassXC on Windows, for browsers and git credential helpers of this system",
		Listen:  runs + "/app/org.keepassxc.KeePassXC/org.keepassxc.KeePassXC.BrowserServer",
		Connect: `\\.\pipe\org.keepassxc.KeePassXC.BrowserServer_%USERNAME%`},
	{Name: "pageant", Description: "PuTTY's Pageant, or what stands in for it, as the SSH agent of this system",
		Listen: own + "/pageant.sock", Connect: "pageant:", Env: agentEnv},
	{Name: "podman", Description: "podman's service of this system, for programs of Windows",
		Listen: `\\.\pipe\podman-wsl`, Connect: runs + "/podman/podman.sock", Message: true},
	{Name: "podman-machine", Description: "podman's machine on Windows, for programs of this system",
		Listen: own + "/podman.sock", Connect: `\\.\pipe\podman-machine-default`,
		Env: map[string]string{"CONTAINER_HOST": "unix://{listen}"}},
	{Name: "ssh-agent", Description: "Windows' OpenSSH agent, or what has taken its place, as the SSH agent of this system",
		Listen: own + "/ssh-agent.sock", Connect: opensshPipe, Filter: config.FilterSSHAgent, Env: agentEnv},
}

// Find returns the preset of that name.
func Find(name string) (Preset, error) {
	i := slices.IndexFunc(All, func(p Preset) bool { return p.Name == name })
	if i < 0 {
		return Preset{}, report.Hint(fmt.Errorf("no preset %q", name), "drvsock preset list")
	}
	return All[i], nil
}

// A Place says where presets listen on this machine.
type Place struct {
	Own     string // the daemon's folder
	Runtime string // $XDG_RUNTIME_DIR, or what takes its place; "" for none
}

// gpgconfWait bounds the asking of gpgconf, which reads configuration files.
const gpgconfWait = 5 * time.Second

// Forward makes the forward of p. listen and connect, if not empty, replace the
// preset's.
func (p Preset) Forward(ctx context.Context, at Place, listen, connect string) (config.Forward, error) {
	f := config.Forward{
		Name: p.Name, Listen: listen, Connect: connect, Message: p.Message, Filter: p.Filter, Env: p.Env,
	}
	var err error
	switch {
	case f.Listen != "":
	case p.Dir != "":
		f.Listen, err = gpgDir(ctx, p.Dir)
	default:
		f.Listen, err = at.fill(p.Listen)
	}
	if err == nil && f.Connect == "" {
		f.Connect, err = at.fill(p.Connect)
	}
	if err != nil {
		return config.Forward{}, fmt.Errorf("preset %s: %w", p.Name, err)
	}
	if f.Listen != p.Listen && !strings.HasPrefix(f.Listen, `\\`) {
		// A message pipe is one of Listen's forms.
		f.Message = false
	}
	return f, nil
}

// fill puts the machine's folders into a preset's name. A `$` in them is no
// variable's.
func (at Place) fill(name string) (string, error) {
	for word, dir := range map[string]string{own: at.Own, runs: at.Runtime, temp: at.temp()} {
		rest, ok := strings.CutPrefix(name, word)
		if !ok {
			continue
		}
		if dir == "" {
			return "", report.Hint(errors.New("there is no runtime folder, XDG_RUNTIME_DIR is not set"), "name the socket with --listen or --connect")
		}
		return strings.ReplaceAll(filepath.Clean(dir), "$", "$$") + rest, nil
	}
	return name, nil
}

// temp is where Discord's clients look: the first of these that is set.
func (at Place) temp() string {
	for _, dir := range []string{at.Runtime, os.Getenv("TMPDIR"), os.Getenv("TMP"), os.Getenv("TEMP")} {
		if dir != "" {
			return dir
		}
	}
	return "/tmp"
}

// gpgDir asks GnuPG where one of its sockets is.
func gpgDir(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, gpgconfWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, "gpgconf", "--list-dirs", name)
	cmd.WaitDelay = time.Second // a child of its own may hold the pipe
	out, err := cmd.Output()
	if err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return "", report.Hint(errors.New("GnuPG is not installed here: gpgconf isn't found"), "install gnupg, or name the socket with --listen")
		}
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer within %v", gpgconfWait)
		}
		return "", report.Hint(fmt.Errorf("ask gpgconf for %s: %w", name, err), "name the socket with --listen")
	}
	path := strings.TrimSuffix(string(out), "\n")
	if !filepath.IsAbs(path) || strings.ContainsAny(path, "\n\r\x00") {
		return "", report.Hint(fmt.Errorf("ask gpgconf for %s: %q is no path", name, path), "name the socket with --listen")
	}
	return strings.ReplaceAll(path, "$", "$$"), nil
}

// Free checks that GnuPG's own agent of this system doesn't listen where the
// forward f of p will: gpg starts it, and it would come back.
func (p Preset) Free(ctx context.Context, f config.Forward) error {
	if p.Dir == "" {
		return nil
	}
	path := f.Listen
	var d net.Dialer
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := d.DialContext(ctx, "unix", strings.ReplaceAll(path, "$$", "$"))
	if err != nil {
		return nil // what else is wrong with it, listening will say
	}
	_ = c.Close()
	return report.Hint(fmt.Errorf("something listens on %s already, most likely this system's own gpg-agent", path),
		"systemctl --user mask --now gpg-agent.socket gpg-agent-extra.socket gpg-agent-ssh.socket; gpgconf --kill gpg-agent")
}
