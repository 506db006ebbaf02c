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
	}
	cmd := exec.Command("systemd-analyze", args...)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+dir)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze %q: %v\n%s", args, err, out)
	}
}
