package endpoint

import (
	"encoding/json"
	"strings"
	"testing"

	"drvsock/internal/wire"
)

func TestParse(t *testing.T) {
	cases := []struct {
		in   string
		want Name
		text string // of String, "" for in
	}{
		{"/run/x.sock", Name{Guest, wire.NetUnix, "/run/x.sock"}, ""},
		{"guest:/run/x.sock", Name{Guest, wire.NetUnix, "/run/x.sock"}, "/run/x.sock"},
		{`/odd\`, Name{Guest, wire.NetUnix, `/odd\`}, ""},
		{"/a:b", Name{Guest, wire.NetUnix, "/a:b"}, ""},
		{"/mnt/c/x", Name{Guest, wire.NetUnix, "/mnt/c/x"}, ""},
		{"@x", Name{Guest, wire.NetUnix, "@x"}, ""},
		{"@" + strings.Repeat("x", 107), Name{Guest, wire.NetUnix, "@" + strings.Repeat("x", 107)}, ""},
		{`C:\tmp\x.sock`, Name{Host, wire.NetUnix, `C:\tmp\x.sock`}, ""},
		{"c:/tmp/x.sock", Name{Host, wire.NetUnix, `c:\tmp\x.sock`}, `c:\tmp\x.sock`},
		{"host:C:/x", Name{Host, wire.NetUnix, `C:\x`}, `C:\x`},
		{`%LOCALAPPDATA%\x/y`, Name{Host, wire.NetUnix, `%LOCALAPPDATA%\x\y`}, `%LOCALAPPDATA%\x\y`},
		{`\\.\pipe\x`, Name{Host, wire.NetPipe, `\\.\pipe\x`}, ""},
		{"//./PIPE/a/b", Name{Host, wire.NetPipe, `\\.\pipe\a\b`}, `\\.\pipe\a\b`},
		{`\\.\pipe\` + strings.Repeat("x", 247), Name{Host, wire.NetPipe, `\\.\pipe\` + strings.Repeat("x", 247)}, ""},
		{`assuan:C:\S.gpg-agent`, Name{Host, wire.NetAssuan, `C:\S.gpg-agent`}, ""},
		{"assuan:/x", Name{Guest, wire.NetAssuan, "/x"}, ""},
		{"guest:assuan:/x", Name{Guest, wire.NetAssuan, "/x"}, "assuan:/x"},
		{`cygwin:%TEMP%\s`, Name{Host, wire.NetCygwin, `%TEMP%\s`}, ""},
		{"pageant:", Name{Host, wire.NetPageant, ""}, ""},
		{"tcp:127.0.0.1:80", Name{Host, wire.NetTCP, "127.0.0.1:80"}, ""},
		{"tcp:localhost:080", Name{Host, wire.NetTCP, "127.0.0.1:80"}, "tcp:127.0.0.1:80"},
		{"tcp:127.9.8.7:0", Name{Host, wire.NetTCP, "127.9.8.7:0"}, ""},
		{"tcp:[::1]:65535", Name{Host, wire.NetTCP, "[::1]:65535"}, ""},
		{"host:tcp:[::1]:1", Name{Host, wire.NetTCP, "[::1]:1"}, "tcp:[::1]:1"},
		{"guest:tcp:[::ffff:127.0.0.1]:9", Name{Guest, wire.NetTCP, "127.0.0.1:9"}, "guest:tcp:127.0.0.1:9"},
	}
	for _, c := range cases {
		got, err := Parse(c.in)
		if err != nil || got != c.want {
			t.Errorf("Parse(%q) = %+v, %v; want %+v", c.in, got, err, c.want)
			continue
		}
		text := c.text
		if text == "" {
			text = c.in
		}
		if got.String() != text {
			t.Errorf("%q is written %q, want %q", c.in, got.String(), text)
		}
		b, err := json.Marshal(got)
		var back Name
		if err == nil {
			err = json.Unmarshal(b, &back)
		}
		if err != nil || back != got {
			t.Errorf("%q is %+v after JSON, %v", c.in, back, err)
		}
		if abstract := c.in[0] == '@'; got.Abstract() != abstract {
			t.Errorf("%q: Abstract is %v", c.in, !abstract)
		}
	}
}

func TestRefused(t *testing.T) {
	for in, want := range map[string]string{
		"":                                     "empty",
		"x":                                    "neither an absolute path",
		"./x":                                  "neither an absolute path",
		"//x/y":                                "neither an absolute path",
		`\\server\pipe\x`:                      "neither an absolute path",
		"C:x":                                  "neither an absolute path",
		"unix:/x":                              "neither an absolute path",
		"é:/x":                                 "neither an absolute path",
		"/":                                    "folder",
		"/x/":                                  "folder",
		`C:\`:                                  "folder",
		`C:\x\`:                                "folder",
		"assuan:/x/":                           "folder",
		"/x\x00y":                              "NUL",
		"/x\ny":                                "line ends",
		"/" + strings.Repeat("x", MaxLen):      "4097 bytes",
		"@":                                    "1 to 107",
		"@" + strings.Repeat("x", 108):         "1 to 107",
		`\\.\pipe\`:                            "1 to 247",
		`\\.\pipe\` + strings.Repeat("x", 248): "1 to 247",
		"assuan:":                              "neither an absolute path",
		"assuan:@x":                            "neither an absolute path",
		`assuan:\\.\pipe\x`:                    "neither an absolute path",
		"assuan:tcp:127.0.0.1:1":               "neither an absolute path",
		"pageant:x":                            "takes nothing more",
		"guest:pageant:":                       "it is the host's",
		`guest:C:\x`:                           "it is the host's",
		`guest:\\.\pipe\x`:                     "it is the host's",
		"host:/x":                              "it is the guest's",
		"host:@x":                              "it is the guest's",
		"guest:guest:/x":                       "neither an absolute path",
		"tcp:127.0.0.1":                        "want tcp:127.0.0.1:PORT",
		"tcp:0.0.0.0:80":                       "loopback",
		"tcp:10.0.0.1:80":                      "loopback",
		"tcp:example.org:80":                   "loopback",
		"tcp:[::1%lo]:80":                      "loopback",
		"tcp::80":                              "loopback",
		"tcp:127.0.0.1:65536":                  "no port",
		"tcp:127.0.0.1:+1":                     "no port",
		"tcp:127.0.0.1:http":                   "no port",
	} {
		if n, err := Parse(in); err == nil {
			t.Errorf("Parse(%.40q) = %+v", in, n)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%.40q): %v, want %q", in, err, want)
		}
	}
	var n Name
	if err := n.UnmarshalText([]byte("x")); err == nil {
		t.Error("UnmarshalText took x")
	}
}

func TestSide(t *testing.T) {
	if Guest.String() != "guest" || Host.String() != "host" {
		t.Errorf("sides are %s and %s", Guest, Host)
	}
}

// FuzzParse: what is read is written so that the same is read, and keeps to its
// bounds.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"/run/x", "@x", `C:\x`, "%A%/x", `\\.\pipe\x`, "//./pipe/x", "assuan:/x", "cygwin:C:/x", "pageant:",
		"tcp:localhost:1", "guest:tcp:[::1]:2", "host:%X%", "guest:@a:b",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := Parse(s)
		if err != nil {
			return
		}
		if back, err := Parse(n.String()); err != nil || back != n {
			t.Errorf("%q is %+v, written %q, which is %+v, %v", s, n, n, back, err)
		}
		if len(n.Path) > MaxLen || strings.ContainsAny(n.Path, "\x00\r\n") {
			t.Errorf("%q has the path %q", s, n.Path)
		}
		if n.Side == Guest && (n.Network == wire.NetPipe || n.Network == wire.NetPageant) || n.Side == Host && n.Abstract() {
			t.Errorf("%q is %+v", s, n)
		}
	})
}
