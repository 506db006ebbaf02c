package daemon_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnits has systemd read the unit files.
func TestUnits(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip(err)
	}
	const installed = "/usr/local/bin/drvsock"
	if readme, err := os.ReadFile("../../README.md"); err != nil || !strings.Contains(string(readme), " "+installed+"\n") {
		t.Errorf("the readme puts the program elsewhere than %s (%v)", installed, err)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "drvsock")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	args := []string{"verify", "--user", "--man=no"}
	for _, name := range []string{"drvsock.service", "drvsock.socket"} {
		text, err := os.ReadFile(filepath.Join("../../systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name)
		if strings.Contains(string(text), "ExecStart=") && !strings.Contains(string(text), "ExecStart="+installed+" ") {
			t.Errorf("%s starts another program than %s", name, installed)
		}
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), installed, program)), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, file)
		// The daemon's views are mounted by a set-user-ID program.
		for line := range strings.Lines(string(text)) {
			if option, _, _ := strings.Cut(line, "="); noNewPrivs[option] {
				t.Errorf("%s: %s sets no_new_privs: an ordinary user could mount nothing", name, option)
			}
		}
	}
	cmd := exec.Command("systemd-analyze", args...)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+dir)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze %q: %v\n%s", args, err, out)
	}
}

// noNewPrivs are the options by which a user's manager sets no_new_privs
// (NoNewPrivileges in systemd.exec(5)).
var noNewPrivs = map[string]bool{
	"NoNewPrivileges": true, "DynamicUser": true, "LockPersonality": true, "MemoryDenyWriteExecute": true,
	"PrivateDevices": true, "ProtectClock": true, "ProtectHostname": true, "ProtectKernelLogs": true,
	"ProtectKernelModules": true, "ProtectKernelTunables": true, "RestrictAddressFamilies": true,
	"RestrictNamespaces": true, "RestrictRealtime": true, "RestrictSUIDSGID": true,
	"SystemCallArchitectures": true, "SystemCallFilter": true, "SystemCallLog": true,
}
