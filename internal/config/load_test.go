package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"drvsock/internal/report"
)

const whole = `# the default agent
link = "ssh box drvsock agent"
drive = ["C=/mnt/c"]

[agent.two]
embed = ['C=/srv/c:/mnt/c']

[[forward]]
name = "ssh"
listen = "/run/x/ssh.sock"
connect = '\\.\pipe\openssh-ssh-agent'
mode = "0660"
owner = "root"
group = "0"
allow = { user = ["root", "1000"] }
filter = "ssh-agent"
env = { SSH_AUTH_SOCK = "{listen}" }

[[forward]]
listen = '\\.\pipe\docker_engine'
connect = "/run/docker.sock"
agent = "two"
access = ['BOX\alice', "S-1-5-32-545"]
message = true

[forward.allow]
user = []

[[forward]] # the same listener's name
listen = "@docker-engine"
connect = 'assuan:%APPDATA%\gnupg\S.gpg-agent'
`

func TestParse(t *testing.T) {
	f, err := Parse("config.toml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	want := &File{
		Agent:  Agent{Link: "ssh box drvsock agent", Drive: []string{"C=/mnt/c"}},
		Agents: map[string]Agent{"two": {Embed: []string{"C=/srv/c:/mnt/c"}}},
		Forwards: []Forward{
			{Name: "ssh", Listen: "/run/x/ssh.sock", Connect: `\\.\pipe\openssh-ssh-agent`, Mode: "0660", Owner: "root", Group: "0",
				Allow: &Allow{User: []string{"root", "1000"}}, Filter: "ssh-agent", Env: map[string]string{"SSH_AUTH_SOCK": "{listen}"}},
			{Name: "docker-engine", Listen: `\\.\pipe\docker_engine`, Connect: "/run/docker.sock", Agent: "two",
				Access: []string{`BOX\alice`, "S-1-5-32-545"}, Message: true, Allow: &Allow{User: []string{}}},
			{Name: "docker-engine-2", Listen: "@docker-engine", Connect: `assuan:%APPDATA%\gnupg\S.gpg-agent`},
		},
	}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Error(diff)
	}
}

// TestFaults: what a person reads, to the caret.
func TestFaults(t *testing.T) {
	t.Setenv("EMPTY", "")
	long := strings.Repeat("a", 200)
	cases := []struct{ name, text, want, hint string }{
		{"syntax", "link = \nx = 1\n", `f:1:8: ` + "missing\n    1 | link = \n      |        ^", ""},
		{"unclosed", "link = \"x\n", "", ""},
		{"unknown key", "lnik = \"x\"\n", "f:1:1: unknown key \"lnik\"\n    1 | lnik = \"x\"\n      | ^^^^", "did you mean link?"},
		{"unknown in forward", "[[forward]]\nlisten = \"/a\"\nconect = \"/b\"\n", "f:3:1: unknown key \"conect\"\n    3 | conect = \"/b\"\n      | ^^^^^^", "did you mean connect?"},
		{"unknown table", "[agents.x]\nlink = \"y\"\n", "f:1:2: unknown key \"agents.x\"\n    1 | [agents.x]\n      |  ^^^^^^^^", "did you mean agent?"},
		{"one forward", "[forward]\nlisten = \"/a\"\n", "", ""},
		{"type", "[[forward]]\nmode = 0o660\n", "f:2:8: mode is a text in quotes\n    2 | mode = 0o660\n      |        ^^^^^", ""},
		{"type of element", "embed = [\n \"a\",\n 5,\n]\n", "f:3:2: 1 is a text in quotes\n    3 |  5,\n      |  ^", ""},
		{"list", "[[forward]]\nallow.user = \"me\"\n", "f:2:14: user is a list, such as [\"a\", \"b\"]\n    2 | allow.user = \"me\"\n      |              ^^^^", ""},
		{"third forward", two + "\n[[forward]]\nconnect = \"/x\"\nlisten = \"run/x\"\n", "f:10:10: endpoint \"run/x\": neither", ""},
		{"missing value", "[[forward]]\nlisten = \"/a\"\n", "f:1:3: connect: no endpoint is given\n    1 | [[forward]]\n      |   ^^^^^^^", ""},
		{"same name", "[[forward]]\nname=\"a\"\nlisten=\"/q\"\nconnect=\"/r\"\n\n\n[[forward]]\nname=\"a\"\nlisten=\"/q\"\nconnect=\"/r\"\n", "f:8:6: another forward is named a too\n    8 | name=\"a\"\n      |      ^^^", ""},
		{"same listener", "[[forward]]\nlisten=\"/q/x\"\nconnect=\"/r\"\n[[forward]]\nname=\"b\"\nlisten=\"/q/x\"\nconnect=\"/s\"\n[[forward]]\nlisten=\"tcp:[::1]:0\"\nconnect=\"/s\"\n[[forward]]\nlisten=\"tcp:[::1]:0\"\nconnect=\"/s\"\n", "f:6:8: forward x listens there too\n    6 | listen=\"/q/x\"\n      |        ^^^^^^", ""},
		{"backslash", "[[forward]]\nlisten=\"/q\"\nconnect=\"\\\\.\\pipe\\x\"\n", "f:3:13: invalid escape character", "in single quotes backslashes are what they are: 'C:\\x.sock'"},
		{"tab in a name", "[[forward]]\nlisten=\"/q\"\nconnect=\"C:\\tmp\"\n", "f:3:9: endpoint \"C:\\tmp\": neither", "in single quotes backslashes are what they are: 'C:\\x.sock'"},
		{"bad name", "[[forward]]\nname=\"A\"\nlisten=\"/q\"\nconnect=\"/r\"\n", "f:2:6: name \"A\": a name is made of", ""},
		{"twice", "link = \"a\"\nlink = \"b\"\n", "f:2:", ""},
		{"no agent", "[[forward]]\nlisten=\"/q\"\nconnect=\"/r\"\nagent = \"x\"\n", "f:4:9: no agent \"x\"\n    4 | agent = \"x\"\n      |         ^^^", "add a table [agent.x] with its link"},
		{"variable", "[[forward]]\nlisten=\"$EMPTY/q\"\nconnect=\"/r\"\n", "f:2:8: \"$EMPTY/q\": the variable EMPTY is not set\n    2 | listen=\"$EMPTY/q\"\n      |        ^^^^^^^^^^", ""},
		{"one mount", "[mount]\ndir = \"/a\"\n", "f:1:2: [mount] is one table, and there can be many mounts\n    1 | [mount]\n      |  ^^^^^", "write [[mount]]"},
		{"unknown in mount", "[[mount]]\ndir = \"/a\"\nallow-other = true\n", "f:3:1: unknown key \"allow-other\"\n    3 | allow-other = true\n      | ^^^^^^^^^^^", "did you mean allow_other?"},
		{"type in mount", "[[forward]]\nlisten=\"/q\"\nconnect=\"/r\"\n[[mount]]\ndir = \"/a\"\nown = 1\n", "f:6:7: own is true or false\n    6 | own = 1\n      |       ^", ""},
		{"no folder", "[[mount]]\nown = true\n", "f:1:3: dir: no folder is given\n    1 | [[mount]]\n      |   ^^^^^", ""},
		{"relative folder", "[[mount]]\ndir = \"x\"\n", "f:2:7: \"x\" is no absolute path\n    2 | dir = \"x\"\n      |       ^^^", "begin it with / or ~/"},
		{"same folder", "[[mount]]\ndir = \"/a\"\n[[mount]]\ndir = \"/b/../a\"\n", "f:4:7: another mount is over /a too", ""},
		{"mount without agent", "[[mount]]\ndir = \"/a\"\nagent = \"x\"\n", "f:3:9: no agent \"x\"", "add a table [agent.x] with its link"},
		{"user in rule", "[[forward]]\nlisten=\"/q\"\nconnect=\"/r\"\nallow = { user = [\"a\",\"\"] }\n", "f:4:23: \"\" is no account\n    4 | allow = { user = [\"a\",\"\"] }\n      |                       ^^", ""},
		{"tab and wide", "[[forward]]\nconnect=\"/r\"\n\tlisten = 'é\x1b'\n", "f:3:", ""},
		{"long line", "link = \"" + long + "\" 5\n", "f:1:", ""},
		{"link and embed", "link = \"x\"\nembed = [\"C=/x\"]\n", "f:2:1: link and embed exclude each other", ""},
		{"relative link", "[agent.x]\nlink = \"./box agent\"\n", "f:2:8: ./box is no absolute path\n    2 | link = \"./box agent\"\n      |        ^^^^^^^^^^^^^", ""},
		{"no drive", "embed = [\"C=/a\", \"xyz\"]\n", "f:1:18: want a drive letter, '=' and a folder\n    1 | embed = [\"C=/a\", \"xyz\"]\n      |                  ^^^^^", "for example \"C=/mnt/c\""},
		{"relative folder of a drive", "drive = [\"C=mnt/c\"]\n", "f:1:10: \"mnt/c\" is no absolute path", ""},
		{"relative view", "embed = [\"C=/a:b\"]\n", "f:1:10: \"b\" is no absolute path", ""},
		{"two at once", "lnk = 1\n[[forward]]\nx = 2\n", "f:1:1: unknown key \"lnk\"\n    1 | lnk = 1\n      | ^^^\nf:3:1: unknown key \"x\"", "did you mean link?"},
		{"BOM", "\xef\xbb\xbflnk = 1\n", "f:1:4: unknown key", ""},
		{"CRLF", "link = 5\r\n", "f:1:8: link is a text in quotes\n    1 | link = 5\n      |        ^", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("f", []byte(c.text))
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.HasPrefix(err.Error(), strings.Replace(c.want, "missing", "", 1)) && !strings.Contains(c.want, "missing") {
				t.Errorf("error is\n%v\nwant\n%s", err, c.want)
			}
			if !strings.HasPrefix(err.Error(), "f:") {
				t.Errorf("error %q doesn't say where", err)
			}
			if strings.ContainsAny(err.Error(), "\x1b\r\t") {
				t.Errorf("error %q has control characters", err)
			}
			for _, l := range strings.Split(err.Error(), "\n") {
				if len(l) > 3*maxShown {
					t.Errorf("line of %d bytes", len(l))
				}
			}
			if got := report.HintOf(err); c.hint != "" && got != c.hint {
				t.Errorf("hint is %q, want %q", got, c.hint)
			}
		})
	}
}

const two = `[[forward]]
listen = "/a"
connect = "/b"
[[forward]]
listen = "/c"
connect = "/d"
`

func TestBounds(t *testing.T) {
	cases := map[string]string{
		"size":     "#" + strings.Repeat("x", MaxSize),
		"forwards": strings.Repeat("[[forward]]\n", MaxForwards+1),
		"inline":   "forward = [" + strings.Repeat("{listen='/a',connect='/b'},", MaxForwards+1) + "]",
		"list":     "drive = [" + strings.Repeat("'C=/c',", MaxList+1) + "]",
		"text":     "link = '" + strings.Repeat("x", MaxString+1) + "'",
		"nested":   "link = " + strings.Repeat("[", 1<<16),
		"name":     "[[forward]]\nname='" + strings.Repeat("x", MaxName+1) + "'\nlisten='/a'\nconnect='/b'\n",
	}
	for name, text := range cases {
		if _, err := Parse("f", []byte(text)); err == nil {
			t.Errorf("%s: no error", name)
		} else if len(err.Error()) > 8<<10 {
			t.Errorf("%s: error of %d bytes", name, len(err.Error()))
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if f, err := Load(filepath.Join(dir, "none")); err != nil || f == nil || len(f.Forwards) != 0 {
		t.Errorf("a file that isn't there: %v, %v", f, err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "is a folder") {
		t.Errorf("a folder: %v", err)
	}
	path := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(path, []byte(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := Load(path); err != nil || len(f.Forwards) != 3 {
		t.Errorf("%v, %v", f, err)
	}
}

func TestPath(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	for _, c := range []struct{ xdg, want string }{
		{"/x/cfg", "/x/cfg/drvsock/config.toml"},
		{"", "/home/me/.config/drvsock/config.toml"},
		{"relative", "/home/me/.config/drvsock/config.toml"}, // ignored, says the specification
	} {
		t.Setenv("XDG_CONFIG_HOME", c.xdg)
		if got := Path(); got != c.want {
			t.Errorf("with %q: %s, want %s", c.xdg, got, c.want)
		}
	}
	t.Setenv("HOME", "")
	if got := Path(); got != "" {
		t.Errorf("without a home: %s", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(two))
	f.Add([]byte("forward = [{listen = '/a', connect = '/b', allow.user = [1]}]\n"))
	f.Add([]byte("[agent]\nx = {link = 'a'}\n[[forward.allow]]\n"))
	f.Add([]byte("\xef\xbb\xbf[forward.env]\r\nA = \"\\u0041\"\r\n"))
	f.Add([]byte("[[mount]]\ndir = '/m'\nown = true\n[[forward]]\nlisten = '/a'\nconnect = '/b'\n"))
	f.Add([]byte("link = \"\"\"\n a\"\"\"\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, file, err := parse("f", text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f:") {
				t.Errorf("error %q doesn't say where", err)
			}
			return
		}
		d.resolve(file)
		// What can be read can be edited, or is said to be of another form.
		path := filepath.Join(t.TempDir(), "c.toml")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if file.Forward("added") != nil {
			return
		}
		if err := AddForward(path, Forward{Name: "added", Listen: `C:\a'"b`, Connect: "/x"}); err != nil {
			if !strings.Contains(err.Error(), errForm.Error()) {
				t.Error(err)
			}
			return
		}
		if err := RemoveForward(path, "added"); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if want := string(text); string(got) != want && string(got) != want+"\n" && string(got) != want+"\r\n" {
			t.Errorf("after adding and removing:\n%q\nwant\n%q", got, want)
		}
		if file.Mount("/added/x") != nil || len(file.Mounts) == MaxForwards {
			return
		}
		text = got
		if err := AddMount(path, Mount{Dir: "/added/x", Own: true}); err != nil {
			if !strings.Contains(err.Error(), errForm.Error()) {
				t.Error(err)
			}
			return
		}
		if err := RemoveMount(path, "/added/x"); err != nil {
			t.Fatal(err)
		}
		if got, err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
		if want := string(text); string(got) != want && string(got) != want+"\n" && string(got) != want+"\r\n" {
			t.Errorf("after mounting and unmounting:\n%q\nwant\n%q", got, want)
		}
	})
}
