package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"drvsock/internal/install"
	"drvsock/internal/link"
	"drvsock/internal/report"
	"drvsock/internal/wire"
)

// A windows is a system with scripts in the place of Windows' programs.
type windows struct {
	t     *testing.T
	dir   string
	drive string // what C:\ is here
	path  string // the folder on the PATH
	bin   string // where this program lies
	agent []string
}

const local = `C:\Users\Jörg Müller\AppData\Local`

func newWindows(t *testing.T) (*windows, *Installed) {
	t.Helper()
	dir := t.TempDir()
	w := &windows{t, dir, filepath.Join(dir, "c"), filepath.Join(dir, "path"), filepath.Join(dir, "bin"), self(t)}
	t.Setenv("PATH", w.path+":/usr/bin:/bin")
	w.file(w.path, "x", "")
	return w, &Installed{
		Starter: Children(), Log: quiet, Interop: filepath.Join(dir, "none"),
		Store: &install.Store{
			Self:    w.file(w.bin, "drvsock", ""),
			OnDrive: func(p string) bool { return strings.HasPrefix(p, w.drive+"/") },
			Guest: func(p string) (string, error) {
				rest, ok := strings.CutPrefix(p, `C:\`)
				if !ok {
					return "", errors.New("another drive")
				}
				return filepath.Join(w.drive, strings.ReplaceAll(rest, `\`, "/")), nil
			},
			Run: runWindows,
		},
	}
}

func (w *windows) file(dir, name, text string) string {
	w.t.Helper()
	p := filepath.Join(dir, name)
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(p, []byte(text), 0o755)); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// program is a drvsock.exe of a build, which counts its starts in dir/build.
func (w *windows) program(dir, name, build string) string {
	return w.file(dir, name, fmt.Sprintf("#!/bin/sh\n[ \"$1\" = agent ] || exit 9\necho \"$0 in $PWD\" >>'%s/%s'\n%s=%s exec '%s' agent '%s'\n",
		w.dir, build, buildVariable, build, w.agent[0], w.agent[2]))
}

// starts are those of a build: which file, and in which folder.
func (w *windows) starts(build string) []string {
	b, err := os.ReadFile(filepath.Join(w.dir, build))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

// shell is a cmd.exe in dir that knows one answer.
func (w *windows) shell(dir string) {
	var b []byte
	for _, u := range utf16.Encode([]rune(local + "\r\n")) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	answer := w.file(w.dir, "answer", string(b))
	w.file(dir, "cmd.exe", fmt.Sprintf("#!/bin/sh\necho \"$0 $* in $PWD\" >>'%s/cmd'\n[ \"$*\" = '/d /u /c echo %%LOCALAPPDATA%%' ] && cat '%s'\n", w.dir, answer))
}

func (w *windows) store() string {
	return filepath.Join(w.drive, "Users", "Jörg Müller", "AppData", "Local", "drvsock")
}

func dial(t *testing.T, i *Installed) string {
	t.Helper()
	l, err := i.Dial(t.Context(), link.Config{Role: wire.RoleGuest, Build: "new"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.End()
	return l.Peer().Build
}

var shipped = "drvsock-windows-" + runtime.GOARCH + ".exe"

// TestInstalled has an old drvsock.exe on the PATH and the right one beside this
// program: the old one is started once and then never again.
func TestInstalled(t *testing.T) {
	w, i := newWindows(t)
	w.shell(filepath.Join(w.drive, "Windows", "System32"))
	old := w.program(w.path, "drvsock.exe", "old")
	w.program(w.bin, shipped, "new")
	for range 2 {
		if b := dial(t, i); b != "new" {
			t.Errorf("the agent is build %s", b)
		}
	}
	list, err := filepath.Glob(filepath.Join(w.store(), "*"))
	if err != nil || len(list) != 1 {
		t.Fatalf("the store has %q, %v", list, err)
	}
	if d := cmp.Diff([]string{old + " in " + w.path}, w.starts("old")); d != "" {
		t.Errorf("of the old one, want (-), got (+):\n%s", d)
	}
	here := list[0] + " in " + w.store()
	if d := cmp.Diff([]string{here, here}, w.starts("new")); d != "" {
		t.Errorf("of the new one, want (-), got (+):\n%s", d)
	}
	if !strings.HasPrefix(i.String(), list[0]) {
		t.Errorf("it is said to be %s", i)
	}
	if d := cmp.Diff([]string{w.drive + "/Windows/System32/cmd.exe /d /u /c echo %LOCALAPPDATA% in " + w.drive + "/Windows/System32"}, w.starts("cmd")); d != "" {
		t.Errorf("of cmd.exe, want (-), got (+):\n%s", d)
	}
	// Another process has no memory of that and finds it in the store.
	other := &Installed{Store: &install.Store{Self: i.Store.Self, OnDrive: i.Store.OnDrive, Guest: i.Store.Guest, Run: i.Store.Run},
		Starter: i.Starter, Log: i.Log, Interop: i.Interop}
	if b := dial(t, other); b != "new" {
		t.Errorf("the agent is build %s", b)
	}
	if again, _ := filepath.Glob(filepath.Join(w.store(), "*")); len(again) != 1 {
		t.Errorf("the store has %q", again)
	}
	// What was settled vanishes, and comes back.
	if err := os.Remove(list[0]); err != nil {
		t.Fatal(err)
	}
	if b := dial(t, i); b != "new" {
		t.Errorf("after its removal the agent is build %s", b)
	}
}

// TestInstalledChoice has what may be there, and wants what is started.
func TestInstalledChoice(t *testing.T) {
	cases := []struct {
		name  string
		have  func(w *windows, i *Installed)
		build string
		where string // of the program, from the test's folder; "" in the store
	}{
		{"the PATH's is this build", func(w *windows, _ *Installed) {
			w.program(w.path, "drvsock.exe", "new")
			w.program(w.bin, shipped, "other")
		}, "new", "path/drvsock.exe"},
		{"the PATH's is old and none came along", func(w *windows, _ *Installed) { w.program(w.path, "drvsock.exe", "old") }, "old", "path/drvsock.exe"},
		{"none on the PATH", func(w *windows, _ *Installed) { w.program(w.bin, shipped, "new") }, "new", ""},
		{"of the plain name", func(w *windows, _ *Installed) { w.program(w.bin, "drvsock.exe", "new") }, "new", ""},
		{"in lib", func(w *windows, _ *Installed) { w.program(filepath.Join(w.dir, "lib", "drvsock"), shipped, "new") }, "new", ""},
		{"this program lies on a drive", func(w *windows, i *Installed) {
			i.Store.Self = w.file(w.drive+"/tools", "drvsock", "")
			w.program(w.drive+"/tools", "drvsock.exe", "new")
		}, "new", "c/tools/drvsock.exe"},
		{"another process knows", func(w *windows, i *Installed) { i.Know(w.program(w.drive+"/known", "drvsock.exe", "new")) }, "new", "c/known/drvsock.exe"},
		{"what came along is another build too", func(w *windows, _ *Installed) {
			w.program(w.path, "drvsock.exe", "old")
			w.program(w.bin, shipped, "other")
		}, "other", ""},
		{"installed by hand", func(w *windows, _ *Installed) { w.program(w.store(), "drvsock.exe", "new") }, "new", "c/Users/Jörg Müller/AppData/Local/drvsock/drvsock.exe"},
		{"left by another guest", func(w *windows, _ *Installed) { w.program(w.store(), "drvsock-00.exe", "old") }, "old", "c/Users/Jörg Müller/AppData/Local/drvsock/drvsock-00.exe"},
		{"the PATH's speaks nothing", func(w *windows, _ *Installed) {
			w.file(w.path, "drvsock.exe", "#!/bin/sh\necho usage: something else; exec cat >/dev/null\n")
			w.program(w.bin, shipped, "new")
		}, "new", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w, i := newWindows(t)
			w.shell(w.path)
			c.have(w, i)
			if b := dial(t, i); b != c.build {
				t.Errorf("the agent is build %s, want %s", b, c.build)
			}
			starts := w.starts(c.build)
			want := filepath.Join(w.dir, c.where) + " in "
			if c.where == "" {
				want = filepath.Join(w.store(), "drvsock-")
			}
			if len(starts) == 0 || !strings.HasPrefix(starts[len(starts)-1], want) {
				t.Errorf("started %q, want %s", starts, want)
			}
		})
	}
}

// TestInstalledNot has systems on which no agent can be had.
func TestInstalledNot(t *testing.T) {
	cases := []struct {
		name, err string
		hint      bool
		have      func(w *windows, i *Installed)
	}{
		{"nothing at all", "no link named, and no drvsock.exe on the PATH", true, func(*windows, *Installed) {}},
		{"an empty store", "no link named, and no drvsock.exe on the PATH", true, func(w *windows, _ *Installed) { w.shell(w.path) }},
		{"no Windows to put it on", "no Windows drive with a cmd.exe", false, func(w *windows, _ *Installed) { w.program(w.bin, shipped, "new") }},
		{"Windows programs can't be started", "%LOCALAPPDATA% by ", false, func(w *windows, _ *Installed) {
			w.program(w.bin, shipped, "new")
			w.file(w.path, "cmd.exe", "#!/bin/sh\nexit 1\n")
		}},
		{"an odd answer", `"%LOCALAPPDATA%" is no folder`, false, func(w *windows, _ *Installed) {
			w.program(w.bin, shipped, "new")
			w.file(w.path, "cmd.exe", "#!/bin/sh\necho '%LOCALAPPDATA%'\n")
		}},
		{"the profile is on no drive here", "another drive", false, func(w *windows, _ *Installed) {
			w.program(w.bin, shipped, "new")
			w.file(w.path, "cmd.exe", "#!/bin/sh\nprintf 'D:\\\\me\\r\\n'\n")
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w, i := newWindows(t)
			c.have(w, i)
			l, err := i.Dial(t.Context(), guest())
			if err == nil {
				l.End()
			}
			if err == nil || !strings.Contains(err.Error(), c.err) || (report.HintOf(err) != "") != c.hint {
				t.Errorf("%v, hint %q, want %q", err, report.HintOf(err), c.err)
			}
		})
	}
}

// TestInstalledFull has no room on the drive: the old one will do.
func TestInstalledFull(t *testing.T) {
	w, i := newWindows(t)
	w.shell(w.path)
	w.program(w.path, "drvsock.exe", "old")
	w.program(w.bin, shipped, "new")
	w.file(filepath.Dir(w.store()), "drvsock", "a file where the folder should be")
	if b := dial(t, i); b != "old" {
		t.Errorf("the agent is build %s", b)
	}
	if n := len(w.starts("old")); n != 2 {
		t.Errorf("it was started %d times, want twice: to see its build, and to use it", n)
	}
	if b := dial(t, i); b != "old" || len(w.starts("old")) != 3 {
		t.Errorf("the second link: build %s, %d starts", b, len(w.starts("old")))
	}
}

// TestInstalledMoves wants no move for an agent that is sent away.
func TestInstalledMoves(t *testing.T) {
	w, i := newWindows(t)
	w.shell(w.path)
	w.program(w.path, "drvsock.exe", "old")
	w.program(w.bin, shipped, "new")
	var asked []string
	i.Door = &Door{Missing: func() error { return nil }, Fits: func(p wire.Hello) error {
		asked = append(asked, p.Build)
		return errors.New("not here")
	}}
	l, err := i.Dial(t.Context(), link.Config{Role: wire.RoleGuest, Build: "new"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.End()
	if d := cmp.Diff([]string{"new"}, asked); d != "" || l.Why != "no Hyper-V socket: not here" {
		t.Errorf("%q, want (-), got (+):\n%s", l.Why, d)
	}
}

func TestKnow(t *testing.T) {
	i := &Installed{}
	for _, c := range []struct {
		exe  string
		news bool
	}{{"", false}, {"drvsock.exe", false}, {"/mnt/c/drvsock.exe", true}, {"/mnt/c/drvsock.exe", false}, {"/mnt/d/drvsock.exe", true}} {
		if i.Know(c.exe) != c.news {
			t.Errorf("%q: news %t", c.exe, !c.news)
		}
	}
	if i.String() != "/mnt/d/drvsock.exe agent" {
		t.Errorf("it is said to be %s", i)
	}
}

// TestNewStore asks this system, which is no WSL in tests.
func TestNewStore(t *testing.T) {
	s := newStore()
	if s.OnDrive("/usr/bin") {
		t.Error("/usr is on a drive of Windows")
	}
	if p, err := s.Guest(`Q:\Windows\x`); err == nil {
		t.Errorf(`Q:\Windows\x is %s`, p)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("no longer wanted")
	cancel(why)
	if _, err := s.Run(ctx, "/", []string{"/bin/sleep", "60"}); !errors.Is(err, why) {
		t.Errorf("given up: %v", err)
	}
}
