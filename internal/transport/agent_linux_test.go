package transport

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"drvsock/internal/config"
	"drvsock/internal/drive"
)

func TestPlan(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Chdir(dir)
	cases := []struct {
		agent config.Agent
		want  Plan
		err   string
	}{
		{config.Agent{}, Plan{}, ""},
		{config.Agent{Link: "x y"}, Plan{Argv: []string{"/bin/sh", "-c", "x y"}}, ""},
		{config.Agent{Drive: []string{"c=/v"}}, Plan{Views: []drive.Override{{Letter: 'C', View: "/v"}}}, ""},
		{config.Agent{Embed: []string{"c=h:v", "D=/d"}, Drive: []string{"E=/e"}}, Plan{
			Argv:  []string{exe, "agent", "--same-users", "--drive", "C=" + filepath.Join(dir, "h"), "--drive", "D=/d"},
			Views: []drive.Override{{Letter: 'E', View: "/e"}, {Letter: 'C', View: "v"}, {Letter: 'D', View: "/d"}},
			Only:  true,
		}, ""},
		{config.Agent{Embed: []string{"C=a"}, Link: "x"}, Plan{}, "exclude each other"},
		{config.Agent{Embed: []string{"C=a", "c=b"}}, Plan{}, `--embed "c=b": drive C has a folder already`},
		{config.Agent{Embed: []string{"C"}}, Plan{}, `--embed "C": want a drive letter, '=' and a folder`},
		{config.Agent{Drive: []string{"1=/x"}}, Plan{}, `--drive "1=/x": want a drive letter`},
	}
	for _, c := range cases {
		got, err := NewPlan(c.agent)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%+v: %v, want %q", c.agent, err, c.err)
			continue
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%+v: want (-), got (+):\n%s", c.agent, d)
		}
	}
}

// TestAbsoluteLink: a program that is named by a relative path is the same one
// from any folder, and nothing else of the command line changes.
func TestAbsoluteLink(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "it's here")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	script := []byte("#!/bin/sh\necho \"$*\"\n")
	if err := os.WriteFile(filepath.Join(dir, "say"), script, 0o700); err != nil {
		t.Fatal(err)
	}
	for link, want := range map[string]string{
		"./say a ./b": "a ./b\n", " ./../*/say;echo x": "\nx\n", "X=/y; ./say": "\n", "echo ./say": "./say\n", "'./say' x": "x\n", "cd / && echo /": "/\n",
	} {
		t.Chdir(dir)
		native, err := exec.Command("/bin/sh", "-c", link).Output()
		if err != nil || string(native) != want {
			t.Fatalf("%q says %q, %v", link, native, err)
		}
		a, err := Absolute(config.Agent{Link: link})
		if err != nil {
			t.Fatal(err)
		}
		if config.RelativeProgram(link) == "" {
			if a.Link != link {
				t.Errorf("%q became %q", link, a.Link)
			}
			continue
		}
		t.Chdir("/")
		if got, err := exec.Command("/bin/sh", "-c", a.Link).Output(); err != nil || string(got) != want {
			t.Errorf("%q, for %q, says %q, %v", a.Link, link, got, err)
		}
	}
}

func TestAbsolute(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	got, err := Absolute(config.Agent{Link: "l", Embed: []string{"c=h:v", "D=d", "E=/e:/f"}, Drive: []string{"f=g"}})
	want := config.Agent{
		Link:  "l",
		Embed: []string{"C=" + dir + "/h:" + dir + "/v", "D=" + dir + "/d", "E=/e:/f"},
		Drive: []string{"F=" + dir + "/g"},
	}
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("want (-), got (+):\n%s", d)
	}
	if _, err := Absolute(config.Agent{Drive: []string{"x"}}); err == nil {
		t.Error("no error for what is no drive")
	}
}
