package hyperv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// idWait bounds the question for the machine's id. Init answers at once; where
// its own channel to the host is broken it takes 10 s not to (microsoft/WSL#41283).
const idWait = 2 * time.Second

// A system is where a guest's state is looked up.
type system struct {
	release string   // file with the kernel's release
	device  string   // that a kernel with vsock has
	interop string   // folder that WSL's init makes
	tools   []string // programs that may be wslinfo
	init    string   // WSL's init, which is wslinfo if it is called so
}

var thisSystem = system{
	release: "/proc/sys/kernel/osrelease", device: "/dev/vsock", interop: "/run/WSL",
	tools: []string{"/usr/bin/wslinfo", "/bin/wslinfo"}, init: "/init",
}

func (s *system) missing() error {
	// WSL's kernels have it in their names; who built one of their own has at
	// least init's folder. Machines of other makers may have vsock as well, and
	// on those CID 2 is somebody else.
	b, _ := os.ReadFile(s.release)
	if _, err := os.Stat(s.interop); err != nil && !strings.Contains(strings.ToLower(string(b)), "microsoft") {
		return errors.New("this is not WSL 2")
	}
	st, err := os.Stat(s.device)
	if err != nil || st.Mode()&os.ModeCharDevice == 0 {
		return fmt.Errorf("the kernel has no %s", s.device)
	}
	return nil
}

func (s *system) machineID(ctx context.Context, env []string) (ID, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, idWait, fmt.Errorf("no answer within %v", idWait))
	defer cancel()
	path := s.init // some distributions lack the link to it: nix-community/NixOS-WSL
	for _, t := range s.tools {
		if _, err := os.Stat(t); err == nil {
			path = t
			break
		}
	}
	cmd := exec.CommandContext(ctx, path)
	cmd.Args = []string{"wslinfo", "--vm-id", "-n"}
	cmd.Env, cmd.WaitDelay = env, time.Second
	var out, said limited
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		// Versions before 2.5.10 don't know the question and say so.
		return ID{}, fmt.Errorf("wslinfo --vm-id: %w %s", err, strings.TrimSpace(firstLine(said.String())))
	}
	id, err := ParseID(out.String())
	if err != nil {
		return ID{}, fmt.Errorf("wslinfo --vm-id: %w", err)
	}
	return id, nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// limited keeps the first bytes that are written to it, and fails then. It has no
// other method of a buffer's: io.Copy would have one read all.
type limited struct{ kept []byte }

var errTalk = errors.New("it says more than an answer has")

func (l *limited) Write(b []byte) (int, error) {
	const most = 256
	n := min(len(b), most-len(l.kept))
	l.kept = append(l.kept, b[:n]...)
	if n < len(b) {
		return n, errTalk
	}
	return n, nil
}

func (l *limited) String() string { return string(l.kept) }
