package config

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const commented = `# mine
link = "x" # the link

# about a
[[forward]]
name = "a" # its name
listen = "/a"
# inside a
connect = "/b"

  [forward.allow] # below
  user = [
    "me", # and
    "you",
  ]
# after a

[[forward]]
listen = "/b"
connect = "/c"

[agent.z]
link = "y"
`

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
	return path
}

func contents(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestMounts(t *testing.T) {
	path := write(t, commented)
	t.Setenv("HOME", "/home/me")
	for _, m := range []Mount{{Dir: "~/tmp"}, {Dir: "/mnt/c/x y", Agent: "z", Own: true, AllowOther: true, ListenLate: true}} {
		if err := AddMount(path, m); err != nil {
			t.Fatal(err)
		}
	}
	want := commented + `
[[mount]]
dir = "~/tmp"

[[mount]]
dir = "/mnt/c/x y"
agent = "z"
own = true
allow_other = true
listen_late = true
`
	if d := cmp.Diff(want, contents(t, path)); d != "" {
		t.Error(d)
	}
	f, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if m := f.Mount("/home/me/tmp/"); m == nil || m.Dir != "~/tmp" {
		t.Errorf("the mount over ~/tmp is %+v", m)
	}
	if err := AddMount(path, Mount{Dir: "/home/me/tmp"}); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second mount over one folder: %v", err)
	}
	if err := RemoveMount(path, "/none"); err == nil {
		t.Error("a mount that isn't there was removed")
	}
	for _, dir := range []string{"/home/me/tmp", "/mnt/c/x y"} {
		if err := RemoveMount(path, dir); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(commented, contents(t, path)); d != "" {
		t.Error(d)
	}
}

func TestRemoveForward(t *testing.T) {
	path := write(t, commented)
	if err := RemoveForward(path, "a"); err != nil {
		t.Fatal(err)
	}
	from := strings.Index(commented, "[[forward]]")
	to := strings.Index(commented, "# after a")
	if diff := cmp.Diff(commented[:from]+commented[to:], contents(t, path)); diff != "" {
		t.Error(diff)
	}
	if err := RemoveForward(path, "b"); err != nil {
		t.Fatal(err)
	}
	want := "# mine\nlink = \"x\" # the link\n\n# about a\n# after a\n\n[agent.z]\nlink = \"y\"\n"
	if diff := cmp.Diff(want, contents(t, path)); diff != "" {
		t.Error(diff)
	}
	if err := RemoveForward(path, "b"); err == nil || !strings.Contains(err.Error(), "no forward named b") {
		t.Errorf("removed twice: %v", err)
	}
}

func TestAddForward(t *testing.T) {
	path := write(t, strings.TrimSuffix(commented, "\n"))
	w := Forward{Name: "new", Listen: `\\.\pipe\it's`, Connect: "~/x$HOME", Access: []string{`A\b`}, Message: true,
		Allow: &Allow{}, Env: map[string]string{"B": `"`, "A": "\\"}}
	if err := AddForward(path, w); err != nil {
		t.Fatal(err)
	}
	want := commented + `
[[forward]]
name = "new"
listen = "\\\\.\\pipe\\it's"
connect = "~/x$HOME"
access = ['A\b']
message = true
allow.user = []
env.A = '\'
env.B = '"'
`
	if diff := cmp.Diff(want, contents(t, path)); diff != "" {
		t.Error(diff)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("mode is %v, %v; want that of the old file", st.Mode(), err)
	}
	if err := AddForward(path, w); err == nil {
		t.Error("added twice")
	}
	if list, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".config*")); len(list) > 0 {
		t.Errorf("left %v behind", list)
	}
}

func TestAddToFull(t *testing.T) {
	path := write(t, strings.Repeat("[[forward]]\nlisten = '/a'\nconnect = '/b'\n", MaxForwards))
	if err := AddForward(path, Forward{Name: "x", Listen: "/x", Connect: "/y"}); err == nil || !strings.Contains(err.Error(), "there can be no more") {
		t.Errorf("%v", err)
	}
}

func TestAddToNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "config.toml")
	if err := AddForward(path, Forward{Name: "x", Listen: "/a", Connect: "/b"}); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if st, err := os.Stat(p); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", p, st.Mode(), err, want)
		}
	}
	if got := contents(t, path); !strings.HasPrefix(got, "[[forward]]\n") {
		t.Errorf("file is %q", got)
	}
}

func TestSymlinkStays(t *testing.T) {
	real := write(t, two)
	link := filepath.Join(t.TempDir(), "config.toml")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	if err := AddForward(link, Forward{Name: "x", Listen: "/x", Connect: "/y"}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.Readlink(link); err != nil || got != real {
		t.Errorf("link is %q, %v", got, err)
	}
	if !strings.Contains(contents(t, real), `name = "x"`) {
		t.Error("the file behind the link is as before")
	}
}

func TestFormOfAPerson(t *testing.T) {
	text := "forward = [{ name = 'a', listen = '/a', connect = '/b' }]\n"
	path := write(t, text)
	for name, err := range map[string]error{
		"add":    AddForward(path, Forward{Name: "x", Listen: "/x", Connect: "/y"}),
		"remove": RemoveForward(path, "a"),
	} {
		if err == nil || !strings.Contains(err.Error(), errForm.Error()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := contents(t, path); got != text {
		t.Errorf("text is now %q", got)
	}
}

// TestManyEditors: nobody's forward is lost.
func TestManyEditors(t *testing.T) {
	path := write(t, commented)
	var work sync.WaitGroup
	for c := 'c'; c <= 'r'; c++ {
		work.Go(func() {
			if err := AddForward(path, Forward{Name: string(c), Listen: "/" + string(c), Connect: "/x"}); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	f, err := Load(path)
	if err != nil || len(f.Forwards) != 18 {
		t.Errorf("%d forwards, %v; want 18", len(f.Forwards), err)
	}
}

// TestTable: what table writes reads back as the same.
func TestTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(0, 40, 200)
		w := Forward{
			Name: "x", Listen: text.Draw(t, "listen"), Connect: text.Draw(t, "connect"), Agent: text.Draw(t, "agent"),
			Mode: text.Draw(t, "mode"), Owner: text.Draw(t, "owner"), Group: text.Draw(t, "group"), Filter: text.Draw(t, "filter"),
			Access: rapid.SliceOfN(text, 1, 4).Draw(t, "access"), Message: rapid.Bool().Draw(t, "message"),
			Allow: &Allow{User: rapid.SliceOfN(text, 1, 4).Draw(t, "user")},
			Env:   map[string]string{"A_1": text.Draw(t, "env")},
		}
		_, f, err := parse("f", []byte(w.table()))
		if err != nil {
			t.Fatalf("%v in\n%s", err, w.table())
		}
		if diff := cmp.Diff(w, f.Forwards[0]); diff != "" {
			t.Error(diff)
		}
	})
}
