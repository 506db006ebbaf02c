package assuan

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"drvsock/internal/cygwin/portfile"
	"drvsock/internal/errno"
)

var counting = portfile.Secret{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

// real are files as GnuPG has them. The first is a dump in jstarks/npiperelay's
// issue 1.
var real = map[string]File{
	"24544\n\x50\xbb\x0b\x13\xa7\xc5\xc6\xc4\xda\x2d\x45\x05\x96\x48\xb3\xda": {Kind: KindNonce, Port: 24544,
		Nonce: portfile.Secret{0x50, 0xbb, 0x0b, 0x13, 0xa7, 0xc5, 0xc6, 0xc4, 0xda, 0x2d, 0x45, 0x05, 0x96, 0x48, 0xb3, 0xda}},
	"1\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n": {Kind: KindNonce, Port: 1,
		Nonce: portfile.Secret(bytes.Repeat([]byte{'\n'}, 16))},
	"!<socket >65535 s 03020100-07060504-0b0a0908-0f0e0d0c\x00": {Kind: KindCygwin, Port: 65535, Nonce: counting},
	"%Assuan%\nsocket=/run/user/1000/gnupg/S.gpg-agent\n":       {Kind: KindRedirect, Target: "/run/user/1000/gnupg/S.gpg-agent"},
	"%Assuan%\nsocket=${XDG_RUNTIME_DIR}/gnupg/S.gpg-agent\n":   {Kind: KindRedirect, Target: "${XDG_RUNTIME_DIR}/gnupg/S.gpg-agent"},
}

func TestParse(t *testing.T) {
	for text, want := range real {
		got, err := Parse([]byte(text))
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%q: %v, (-want +got):\n%s", text, err, d)
		}
		if b := got.Bytes(); string(b) != text {
			t.Errorf("written %q, want %q", b, text)
		}
	}
	for _, bad := range []string{
		"", "24544", "24544\n", "24544\n0123456789abcde", "24544\n0123456789abcdefg", "24544\r\n0123456789abcdef",
		"0\n0123456789abcdef", "65536\n0123456789abcdef", "-1\n0123456789abcdef", "+1\n0123456789abcdef", "x\n0123456789abcdef",
		"%Assuan%\nsocket=", "%Assuan%\nsocket=\n", "%Assuan%\nsocket=/x", "%Assuan%\r\nsocket=/x\r\n", "%assuan%\nsocket=/x\n",
		"%Assuan%\nsocket=/x\x00y\n", "%Assuan%\nsocket=/" + strings.Repeat("x", 511-18) + "x\n",
		"!<socket >1 d 1-2-3-4\x00", strings.Repeat("1", portfile.MaxFile+1),
	} {
		if f, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%.60q is %+v", bad, f)
		}
	}
}

func TestExpand(t *testing.T) {
	env := map[string]string{"A": "/run/a", "B": "b", "DOLLAR": "${A}"}
	for target, want := range map[string]string{
		"/plain":               "/plain",
		"${A}/s":               "/run/a/s",
		"/x/${B}${B}/${NONE}y": "/x/bb/y",
		"/${DOLLAR}":           "/${A}", // once
		"/$A/$":                "/$A/$",
		"/${}x":                "/x",
		"/}{":                  "/}{",
	} {
		got, err := expand(target, func(n string) string { return env[n] })
		if got != want || err != nil {
			t.Errorf("%s: %s, %v, want %s", target, got, err, want)
		}
	}
	for target, want := range map[string]errno.Errno{
		"/${A": errno.EINVAL, "relative": errno.EINVAL, "${NONE}": errno.EINVAL,
		"/" + strings.Repeat("x", 107): errno.ENAMETOOLONG,
	} {
		if got, err := expand(target, func(n string) string { return env[n] }); !errors.Is(err, want) {
			t.Errorf("%s: %s, %v, want %v", target, got, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for text := range real {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := Parse(b)
		if err != nil {
			return
		}
		again, err := Parse(file.Bytes())
		if err != nil || again != file {
			t.Errorf("%q is %+v, written %q it is %+v, %v", b, file, file.Bytes(), again, err)
		}
		if file.Kind == KindRedirect {
			path, err := expand(file.Target, func(string) string { return "/v" })
			if err == nil && (len(path) > 107 || !filepath.IsAbs(path)) {
				t.Errorf("%q leads to %q", b, path)
			}
		} else if file.Port == 0 {
			t.Errorf("%q is %+v", b, file)
		}
	})
}
