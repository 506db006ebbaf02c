package preset

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"drvsock/internal/report"
)

// TestAll: every preset makes a forward that the engine takes.
func TestAll(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	fakeGPG(t, "echo /run/user/1000/gnupg/S.$2")
	at := Place{Own: "/run/user/1000/drvsock", Runtime: "/run/user/1000"}
	if !slices.IsSortedFunc(All, func(a, b Preset) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("presets are not in order")
	}
	for _, p := range All {
		f, err := p.Forward(context.Background(), at, "", "")
		if err != nil {
			t.Errorf("%s: %v", p.Name, err)
			continue
		}
		r, err := f.Resolve()
		if err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
		if r.From.Side == r.To.Side {
			t.Errorf("%s: from %v to %v doesn't cross", p.Name, r.From, r.To)
		}
		if got, err := Find(p.Name); err != nil || got.Name != p.Name {
			t.Errorf("find %s: %v, %v", p.Name, got.Name, err)
		}
	}
	if _, err := Find("nosuch"); err == nil || report.HintOf(err) != "drvsock preset list" {
		t.Errorf("find nosuch: %v", err)
	}
}

func TestOverride(t *testing.T) {
	at := Place{Own: "/own/$x"}
	p, err := Find("docker")
	if err != nil {
		t.Fatal(err)
	}
	f, err := p.Forward(context.Background(), at, `C:\docker.sock`, "/other.sock")
	if err != nil || f.Listen != `C:\docker.sock` || f.Connect != "/other.sock" || f.Message {
		t.Errorf("%+v, %v", f, err)
	}
	if p, err = Find("ssh-agent"); err != nil {
		t.Fatal(err)
	}
	f, err = p.Forward(context.Background(), at, "", "")
	if err != nil || f.Listen != "/own/$$x/ssh-agent.sock" {
		t.Errorf("%+v, %v", f, err)
	}
	r, err := f.Resolve()
	if err != nil || r.Listen != "/own/$x/ssh-agent.sock" {
		t.Errorf("resolves to %q, %v", r.Listen, err)
	}
	if p, err = Find("keepassxc"); err != nil {
		t.Fatal(err)
	}
	if _, err = p.Forward(context.Background(), at, "", ""); err == nil || !strings.Contains(err.Error(), "XDG_RUNTIME_DIR") {
		t.Errorf("without a runtime folder: %v", err)
	}
}

// fakeGPG puts a gpgconf on the PATH.
func fakeGPG(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "gpgconf"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/bin:/usr/bin")
}

func TestGPG(t *testing.T) {
	p, err := Find("gpg")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ script, want, hint string }{
		"no path": {"echo oops", `"oops" is no path`, "--listen"},
		"fails":   {"exit 2", "exit status 2", "--listen"},
		"two":     {"echo /a; echo /b", "is no path", "--listen"},
	} {
		fakeGPG(t, c.script)
		if _, err := p.Forward(context.Background(), Place{}, "", ""); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(report.HintOf(err), c.hint) {
			t.Errorf("%s: %v (%s)", name, err, report.HintOf(err))
		}
	}
	t.Run("hangs", func(t *testing.T) {
		fakeGPG(t, "sleep 60")
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		began := time.Now()
		if _, err := p.Forward(ctx, Place{}, "", ""); err == nil || !strings.Contains(err.Error(), "no answer") {
			t.Errorf("%v", err)
		}
		if d := time.Since(began); d > 4*time.Second {
			t.Errorf("took %v", d)
		}
	})
	t.Run("missing", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		if _, err := p.Forward(context.Background(), Place{}, "", ""); err == nil || !strings.Contains(report.HintOf(err), "install gnupg") {
			t.Errorf("%v", err)
		}
	})
	t.Run("taken", func(t *testing.T) {
		dir, err := os.MkdirTemp("/tmp", "gpg")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "S.gpg-agent")
		fakeGPG(t, "echo "+path)
		f, err := p.Forward(context.Background(), Place{}, "", "")
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Free(context.Background(), f); err != nil {
			t.Errorf("free: %v", err)
		}
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err = p.Free(context.Background(), f); err == nil || !strings.Contains(report.HintOf(err), "gpgconf --kill gpg-agent") {
			t.Errorf("taken: %v", err)
		}
	})
}

func TestShell(t *testing.T) {
	for name, want := range map[string]string{
		"/bin/bash": "sh", "/usr/bin/zsh": "sh", "": "sh", "/usr/bin/fish": "fish", "/opt/pwsh": "pwsh",
		`C:\Windows\powershell.exe`: "powershell", "/bin/tcsh": "sh",
	} {
		if got := Shell(name); got != want {
			t.Errorf("Shell(%q) = %s, want %s", name, got, want)
		}
	}
	if _, err := Assign("csh", "A", "b"); err == nil || !strings.Contains(report.HintOf(err), "fish") {
		t.Errorf("csh: %v", err)
	}
	for shell, want := range map[string]string{
		"sh": `export A='it'\''s \ $x'` + "\n", "fish": `set -gx A 'it\'s \\ $x'` + "\n", "pwsh": "${env:A} = 'it''s \\ $x'\n",
	} {
		if got, err := Assign(shell, "A", `it's \ $x`); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", shell, got, err, want)
		}
	}
}

// TestShellsReadBack: each shell that is here evaluates to the very bytes.
func TestShellsReadBack(t *testing.T) {
	for _, c := range []struct{ shell, program string }{{"sh", "sh"}, {"sh", "bash"}, {"sh", "zsh"}, {"fish", "fish"}, {"pwsh", "pwsh"}} {
		program, err := exec.LookPath(c.program)
		if err != nil {
			continue
		}
		t.Run(c.program, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				// One run of the shell for many values.
				values := rapid.SliceOfN(rapid.StringMatching(`[^\x00\n\r]{0,30}`), 1, 20).Draw(t, "values")
				var script strings.Builder
				for _, v := range values {
					line, err := Assign(c.shell, "DRVSOCK_TEST", v)
					if err != nil {
						t.Fatal(err)
					}
					script.WriteString(line)
					if c.shell == "pwsh" {
						script.WriteString("[Console]::Out.Write(${env:DRVSOCK_TEST} + \"`n\")\n")
					} else {
						script.WriteString("printenv DRVSOCK_TEST\n")
					}
				}
				out, err := exec.Command(program, "-c", script.String()).Output()
				if err != nil {
					t.Fatalf("%v\n%s", err, script.String())
				}
				if got, want := string(out), strings.Join(values, "\n")+"\n"; got != want {
					t.Errorf("%q\nwant\n%q", got, want)
				}
			})
		})
	}
}
