package drive

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestEscapeName(t *testing.T) {
	tests := []struct{ guest, host string }{
		{"", ""},
		{"server.sock", "server.sock"},
		{"a:b", "a\uf03ab"},
		{`foo\:bar`, "foo\uf05c\uf03abar"},
		{"\x01\x1f", "\uf001\uf01f"},
		{`"*:<>?\|`, "\uf022\uf02a\uf03a\uf03c\uf03e\uf03f\uf05c\uf07c"},
		{" . ", " . "},
		{"trailing.", "trailing."},
		{"CON", "CON"},
		{"\x7f", "\x7f"},
		{"語\x08", "語\uf008"},
		{"\xff\xfe:", "\xff\xfe\uf03a"},
	}
	for _, tt := range tests {
		if got := string(EscapeName([]byte(tt.guest))); got != tt.host {
			t.Errorf("EscapeName(%q) = %q, want %q", tt.guest, got, tt.host)
		}
		if got := string(UnescapeName([]byte(tt.host))); got != tt.guest {
			t.Errorf("UnescapeName(%q) = %q, want %q", tt.host, got, tt.guest)
		}
	}
}

// Only the characters that are escaped come back: these look like it and stay.
func TestUnescapeNameLeavesOthers(t *testing.T) {
	for _, s := range []string{
		"\uf000", "\uf020", "\uf025", "\uf02f", "\uf041", "\uf07f", "\uf080", "\uf0ba", "\uf100", "\uefff",
		"\uff3a", "\ufb00", "\xef", "\xef\x80", "\xef\x80\x00", "\xef\x80\xc1", "a\xef\xef\x81", "\xef\x82\x81",
	} {
		if got := string(UnescapeName([]byte(s))); got != s {
			t.Errorf("UnescapeName(%q) = %q", s, got)
		}
	}
}

// Every character is checked against the definition in words.
func TestEscapeEveryByte(t *testing.T) {
	for c := 1; c < 256; c++ {
		want := []byte{byte(c)}
		if c < 0x20 || bytes.IndexByte([]byte(`"*:<>?\|`), byte(c)) >= 0 {
			want = []byte(string(rune(0xf000 + c)))
		}
		if got := EscapeName([]byte{byte(c)}); !bytes.Equal(got, want) {
			t.Errorf("EscapeName(%#x) = %x, want %x", c, got, want)
		}
	}
}

func nameGen() *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte {
		parts := rapid.SliceOfN(rapid.OneOf(
			rapid.StringN(0, 4, -1),
			rapid.SampledFrom([]string{":", `\`, "\xef", "\x80", "\x81", "\uf03a", "\uf02f", "\uf000", "\uff3a", "*", "\x01"}),
			rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 4), func(b []byte) string { return string(b) }),
		), 0, 8).Draw(t, "parts")
		var out []byte
		for _, p := range parts {
			out = append(out, p...)
		}
		return slices.DeleteFunc(out, func(c byte) bool { return c == 0 || c == '/' })
	})
}

func TestNameProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { checkName(t, nameGen().Draw(t, "name")) })
}

func checkName(t interface{ Fatalf(string, ...any) }, name []byte) {
	orig := bytes.Clone(name)
	esc := EscapeName(name)
	if slices.ContainsFunc(esc, illegal) {
		t.Fatalf("EscapeName(%q) = %q holds an illegal character", name, esc)
	}
	if again := EscapeName(esc); !bytes.Equal(again, esc) {
		t.Fatalf("EscapeName twice of %q: %q, then %q", name, esc, again)
	}
	// Both spellings of a name mean one host name, so the way back is exact for
	// all that unescaping leaves alone, and always leads to the same host name.
	back := UnescapeName(esc)
	if plain := UnescapeName(name); bytes.Equal(plain, name) && !bytes.Equal(back, name) {
		t.Fatalf("name %q came back as %q", name, back)
	}
	if host := EscapeName(back); !bytes.Equal(host, esc) {
		t.Fatalf("%q unescapes to %q, whose host name is %q", esc, back, host)
	}
	if n := bytes.Count(back, []byte{'/'}) + bytes.Count(back, []byte{0}); n != bytes.Count(name, []byte{'/'})+bytes.Count(name, []byte{0}) {
		t.Fatalf("UnescapeName(%q) = %q made a separator or an end", esc, back)
	}
	if !bytes.Equal(name, orig) {
		t.Fatalf("argument changed from %q to %q", orig, name)
	}
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"", "a:b", "\uf03a", "\xef\x80", "\uf02f", "\xef\xef\x80\xba"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, name []byte) {
		if bytes.IndexByte(name, 0) < 0 {
			checkName(t, name)
		}
	})
}

func TestJoinHost(t *testing.T) {
	tests := []struct{ base, rel, want string }{
		{`C:\`, "", `C:\`},
		{`C:\`, "tmp/x.sock", `C:\tmp\x.sock`},
		{`C:\dir`, "x", `C:\dir\x`},
		{`C:\dir`, "", `C:\dir`},
		{`C:\`, "/a//b/", `C:\a\b`},
		{`C:\`, "a:b/c\\d", "C:\\a\uf03ab\\c\uf05cd"},
		{`\\srv\share`, "x", `\\srv\share\x`},
	}
	for _, tt := range tests {
		if got := string(JoinHost([]byte(tt.base), []byte(tt.rel))); got != tt.want {
			t.Errorf("JoinHost(%q, %q) = %q, want %q", tt.base, tt.rel, got, tt.want)
		}
	}
}

func TestSplitHost(t *testing.T) {
	tests := []struct {
		path   string
		letter byte
		names  []string
		ok     bool
	}{
		{`C:\`, 'C', nil, true},
		{`c:\tmp\x.sock`, 'C', []string{"tmp", "x.sock"}, true},
		{"C:\\a\uf03ab\\\uf05c", 'C', []string{"a:b", `\`}, true},
		{"C:\\\uf02f..", 'C', []string{"\uf02f.."}, true},
		{`C:`, 0, nil, false},
		{`C:x`, 0, nil, false},
		{`1:\x`, 0, nil, false},
		{`C:/x`, 0, nil, false},
		{`C:\\x`, 0, nil, false},
		{`C:\x\`, 0, nil, false},
		{`C:\.`, 0, nil, false},
		{`C:\a\..\b`, 0, nil, false},
		{`C:\a/b`, 0, nil, false},
		{`C:\a:b`, 0, nil, false},
		{"C:\\a\x00", 0, nil, false},
		{`\\srv\share\x`, 0, nil, false},
		{`\\?\C:\x`, 0, nil, false},
		{"", 0, nil, false},
	}
	for _, tt := range tests {
		letter, names, ok := SplitHost([]byte(tt.path))
		var got []string
		for _, n := range names {
			got = append(got, string(n))
		}
		if letter != tt.letter || ok != tt.ok || !cmp.Equal(got, tt.names) {
			t.Errorf("SplitHost(%q) = %c, %q, %v, want %c, %q, %v", tt.path, letter, got, ok, tt.letter, tt.names, tt.ok)
		}
	}
}

// What JoinHost makes of names, SplitHost gives back, unless they are written
// escaped already.
func TestJoinSplitHost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfN(nameGen().Filter(func(n []byte) bool {
			return len(n) > 0 && string(n) != "." && string(n) != ".." && bytes.Equal(UnescapeName(n), n) &&
				bytes.Equal(UnescapeName(EscapeName(n)), n)
		}), 0, 5).Draw(t, "names")
		path := JoinHost([]byte(`C:\`), bytes.Join(names, []byte{'/'}))
		letter, got, ok := SplitHost(path)
		if letter != 'C' || !ok || !slices.EqualFunc(got, names, bytes.Equal) {
			t.Fatalf("SplitHost(%q) = %c, %q, %v, want %q", path, letter, got, ok, names)
		}
	})
}

func FuzzSplitHost(f *testing.F) {
	f.Add([]byte(`C:\tmp\x.sock`))
	f.Add([]byte("C:\\\uf02f\\.."))
	f.Fuzz(func(t *testing.T, path []byte) {
		_, names, ok := SplitHost(path)
		for _, n := range names {
			if !ok || len(n) == 0 || string(n) == "." || string(n) == ".." || bytes.ContainsAny(n, "/\x00") {
				t.Fatalf("SplitHost(%q) gave the name %q, ok %v", path, n, ok)
			}
		}
	})
}
