package hyperv

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	idA = "8f2e1d0c-1111-4222-8333-444455556666"
	idB = "0a0b0c0d-1111-4222-8333-aabbccddeeff"
)

func id(t *testing.T, s string) ID {
	t.Helper()
	id, err := ParseID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestParseID(t *testing.T) {
	want := id(t, idA)
	for _, s := range []string{"{" + idA + "}", strings.ToUpper(idA), " {" + strings.ToUpper(idA) + "}\r\n", idA + "\n"} {
		if got, err := ParseID(s); err != nil || got != want {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "{}", "wsl1", idA[1:], idA + "0", "00000000-0000-0000-0000-000000000000", "{{" + idA + "}}", strings.Repeat("x", 1000)} {
		if got, err := ParseID(s); err == nil || len(err.Error()) > 200 {
			t.Errorf("%.50q: %v, %.300v", s, got, err)
		}
	}
}

// FuzzParseID has what wslinfo may say.
func FuzzParseID(f *testing.F) {
	for _, s := range []string{idA, "{" + idA + "}\r\n", "wsl1\n", "", "{" + idA} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseID(s)
		if err != nil {
			if len(err.Error()) > 400 {
				t.Errorf("%q: an error of %d bytes", s, len(err.Error()))
			}
			return
		}
		if again, err := ParseID(got.String()); err != nil || again != got || !strings.Contains(strings.ToLower(s), got.String()) {
			t.Errorf("%q is %v, and that is %v, %v", s, got, again, err)
		}
	})
}

func TestCommandLine(t *testing.T) {
	cases := []struct{ line, want string }{
		{`"C:\Program Files\WSL\wslhost.exe" --distro-id {` + idB + `} --vm-id {` + idA + `} --handle 1234 --event 5678`, idA},
		{`C:\Windows\System32\lxss\wslhost.exe {` + idB + `} --vm-id {` + strings.ToUpper(idA) + `}`, idA},
		{`wslrelay.exe --mode 2 --vm-id={` + idA + `} --handle 2`, idA},
		{`wslrelay.exe "--vm-id" "{` + idA + `}"`, idA},
		{`wslhost.exe --vm-id --vm-id {` + idA + `}`, idA},
		{`wslhost.exe --distro-id {` + idB + `}`, ""},
		{`wslhost.exe --vm-id`, ""},
		{`wslhost.exe --vm-idx {` + idA + `}`, ""},
		{`wslhost.exe --vm-id {nonsense}`, ""},
		{``, ""},
	}
	for _, c := range cases {
		got, ok := idOnCommandLine(c.line)
		if ok != (c.want != "") || ok && got != id(t, c.want) {
			t.Errorf("%s: %v, %t, want %q", c.line, got, ok, c.want)
		}
	}
	for name, want := range map[string]bool{"wslhost.exe": true, "WSLHost.EXE": true, "wslrelay.exe": true, "wsl.exe": false, "wslhost.exe.bak": false, "": false} {
		if isHelper(name) != want {
			t.Errorf("helper %q: %t", name, !want)
		}
	}
}

func FuzzCommandLine(f *testing.F) {
	f.Add(`wslhost.exe --vm-id {` + idA + `}`)
	f.Add(`"a b" "--vm-id={` + idB + `}" --vm-id`)
	f.Fuzz(func(t *testing.T, line string) {
		if id, ok := idOnCommandLine(line); ok && (id == ID{} || !strings.Contains(strings.ToLower(line), id.String())) {
			t.Errorf("%q: %v", line, id)
		}
	})
}

// TestMachines has the ways to find a machine in their order.
func TestMachines(t *testing.T) {
	a, b := id(t, idA), id(t, idB)
	var asked []string
	way := func(name string, err error, ids ...ID) finder {
		return finder{name, func() ([]ID, error) { asked = append(asked, name); return ids, err }}
	}
	many := way("many", nil)
	many.find = func() (ids []ID, _ error) {
		for i := range 100 {
			ids = append(ids, id(t, fmt.Sprintf("%08x%s", i, idA[8:])))
		}
		return ids, nil
	}
	broken := errors.New("broken")
	cases := []struct {
		name    string
		named   string
		finders []finder
		want    []ID
		asked   []string
		err     string
	}{
		{"named", "{" + idA + "}", []finder{way("x", nil, b)}, []ID{a}, nil, ""},
		{"named badly", "wsl1", []finder{way("x", nil, b)}, nil, nil, "no id"},
		{"first way", "", []finder{way("x", nil, a), way("y", nil, b)}, []ID{a}, []string{"x"}, ""},
		{"first finds none", "", []finder{way("x", nil), way("y", nil, b)}, []ID{b}, []string{"x", "y"}, ""},
		{"first is broken", "", []finder{way("x", broken), way("y", nil, b)}, []ID{b}, []string{"x", "y"}, ""},
		{"several, one twice", "", []finder{way("x", nil, a, b, a)}, []ID{b, a}, []string{"x"}, ""},
		{"nobody knows", "", []finder{way("x", broken), way("y", nil)}, nil, []string{"x", "y"}, "x: broken\ny: none"},
		{"no Windows", "", nil, nil, nil, "no Hyper-V sockets"},
	}
	for _, c := range cases {
		asked = nil
		got, err := machines(c.named, c.finders)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: want (-), got (+):\n%s", c.name, d)
		}
		if d := cmp.Diff(c.asked, asked); d != "" {
			t.Errorf("%s: asked, want (-), got (+):\n%s", c.name, d)
		}
	}
	if got, err := machines("", []finder{many}); err != nil || len(got) != maxMachines {
		t.Errorf("%d machines, %v, want %d", len(got), err, maxMachines)
	}
}

func TestPort(t *testing.T) {
	seen := map[uint32]bool{}
	for range 100 {
		p := randomPort()
		if p < firstPort || p > lastPort || seen[p] {
			t.Fatalf("port %d", p)
		}
		seen[p] = true
		if got, err := parsePort(fmt.Sprint(p)); err != nil || got != p {
			t.Errorf("port %d read as %d, %v", p, got, err)
		}
	}
	for _, s := range []string{"", "0", "50001", "4294967295", "2147483648", "-1", "0x40000000", "1073741824 ", strings.Repeat("9", 99)} {
		if p, err := parsePort(s); err == nil {
			t.Errorf("port %q read as %d", s, p)
		}
	}
}
