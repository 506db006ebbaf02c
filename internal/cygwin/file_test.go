package cygwin

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"drvsock/internal/cygwin/portfile"
)

// secret is what the words 03020100-… stand for on the wire.
var secret = portfile.Secret{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

const text = "!<socket >49152 s 03020100-07060504-0b0a0908-0f0e0d0c\x00"

func TestParse(t *testing.T) {
	want := File{49152, secret}
	for _, good := range []string{
		text,
		strings.TrimSuffix(text, "\x00"),       // OmniSSHAgent's
		strings.ToUpper(text[:30]) + text[30:], // old Cygwin's case; "S" is checked below
		text + "more\x00",
	} {
		good = strings.Replace(good, "!<SOCKET >", "!<socket >", 1)
		good = strings.Replace(good, " S ", " s ", 1)
		got, err := Parse([]byte(good))
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%q: %v, (-want +got):\n%s", good, err, d)
		}
	}
	for _, bad := range []string{
		"", "!<socket", "!<socket >", "24544\n0123456789abcdef",
		"!<socket >59108 282F93E1-9E2D051A-46B57EFC-64A1852F",                  // MSYS 1
		strings.Replace(text, " s ", " d ", 1),                                 // datagrams
		strings.Replace(text, "49152", "0", 1),                                 // ports
		strings.Replace(text, "49152", "65536", 1),                             //
		strings.Replace(text, "49152", "-1", 1),                                //
		strings.Replace(text, "-0f0e0d0c", "", 1),                              // words
		strings.Replace(text, "0f0e0d0c", "0f0e0d0c1", 1),                      //
		strings.Replace(text, "0f0e0d0c", "0f0e0d0g", 1),                       //
		strings.Replace(text, "0f0e0d0c", "", 1),                               //
		text[:40] + "\x00" + text[40:],                                         // cut short
		"!<socket >" + strings.Repeat(" ", portfile.MaxFile) + "1 s 1-2-3-4\n", // too long
	} {
		if f, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%.60q is %+v", bad, f)
		}
	}
}

func TestBytes(t *testing.T) {
	if got := string((File{49152, secret}).Bytes()); got != text {
		t.Errorf("%q, want %q", got, text)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(text))
	f.Add([]byte("!<socket >59108 282F93E1-9E2D051A-46B57EFC-64A1852F"))
	f.Add([]byte("!<socket >1 s 1-2-3-4"))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := Parse(b)
		if err != nil {
			return
		}
		again, err := Parse(file.Bytes())
		if err != nil || again != file {
			t.Errorf("%q is %+v, written %q it is %+v, %v", b, file, file.Bytes(), again, err)
		}
		if !bytes.HasPrefix(b, []byte("!<socket >")) || file.Port == 0 {
			t.Errorf("%q is %+v", b, file)
		}
	})
}
