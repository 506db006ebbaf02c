package afunix

import (
	"strings"
	"testing"
	"unicode/utf8"

	"drvsock/internal/errno"
)

func TestCheckWindowsPath(t *testing.T) {
	good := []string{
		`C:\`, `C:\x.sock`, `c:\Users\Jörg\x y.sock`, `Z:\a\b\c\d`, `C:\.hidden`, `C:\a..b\...c`,
		`\\srv\share\x.sock`, `\\srv\share\`, "C:\\we\uf03aird", `C:\console`, `C:\com10`, `C:\nul2`, `C:\xcon`, `C:\日本\ソ`,
		`C:\a.con`, `C:\lpt`, `C:\ leading`,
	}
	for _, p := range good {
		if got, err := CheckWindowsPath([]byte(p)); got != p || err != nil {
			t.Errorf("%q: %q, %v", p, got, err)
		}
	}
	bad := []string{
		``, `C`, `C:`, `C:x`, `x\y`, `\x`, `/tmp/x`, `1:\x`, `C:/x`, `C:\a/b`, `C:\a\\b`, `C:\a\`, `C:\.`, `C:\a\..\b`, `C:\..`,
		`C:\x:stream`, `C:\x*`, `C:\x?`, `C:\<x`, `C:\"x"`, `C:\a|b`, "C:\\a\x00b", "C:\\a\nb", "C:\\\xff",
		`C:\x.`, `C:\x `, `C:\dir.\x`, `C:\dir \x`, `C:\...`,
		`C:\CON`, `C:\nul`, `C:\nul.txt`, `C:\aux .sock`, `C:\com1`, `C:\LPT9.sock`, "C:\\com\u00b9", `C:\conin$`, `C:\prn\x`,
		`\\?\C:\x`, `\\.\pipe\x`, `\\srv`, `\\srv\share`, `\\\share\x`, `\\srv\\x`, `\\.\C:\x`,
	}
	for _, p := range bad {
		got, err := CheckWindowsPath([]byte(p))
		if got != "" || errno.Of(err) != errno.EINVAL {
			t.Errorf("%q: %q, %v", p, got, err)
		}
	}
}

func FuzzCheckWindowsPath(f *testing.F) {
	for _, s := range []string{`C:\x`, `\\srv\share\x`, `C:\a\b.`, `C:\nul`, `\\?\C:\x`, "C:\\\uf03a", `\\srv\share \x`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		s, err := CheckWindowsPath(p)
		if err != nil {
			return
		}
		if s != string(p) || !utf8.ValidString(s) || strings.ContainsAny(s, "\x00/*?\"<>|") || strings.Contains(s[2:], ":") {
			t.Errorf("%q was let through", p)
		}
		for i, elem := range strings.Split(s, `\`) {
			if i > 0 && strings.TrimRight(elem, ". ") != elem {
				t.Errorf("%q was let through with %q", p, elem)
			}
		}
	})
}

func TestLookAt(t *testing.T) {
	files := map[string]FileKind{
		`C:\`: KindFolder, `C:\dir`: KindFolder, `C:\dir\sock`: KindSocket, `C:\file`: KindFile, `C:\dir\sub`: KindFolder,
		`C:\secret`: KindFolder, `C:\secret\x`: KindUnknown, `C:\secret\y`: KindMissing,
	}
	kindOf := func(p string) FileKind {
		if k, ok := files[p]; ok {
			return k
		}
		return KindMissing
	}
	tests := []struct {
		path string
		want errno.Look
	}{
		{`C:\dir\sock`, errno.LookSocket},
		{`C:\dir\sub`, errno.LookOther},
		{`C:\file`, errno.LookOther},
		{`C:\new`, errno.LookMissing},
		{`C:\dir\new`, errno.LookMissing},
		{`C:\no\new`, errno.LookNoFolder},
		{`C:\no\no\no\new`, errno.LookNoFolder},
		{`C:\file\new`, errno.LookNotFolder},
		{`C:\file\no\new`, errno.LookNotFolder},
		{`C:\dir\sock\new`, errno.LookNotFolder},
		{`C:\secret\x`, errno.LookUnknown},
		{`C:\secret\x\y`, errno.LookUnknown},
		{`D:\new`, errno.LookNoFolder},
		{`\\srv\share\new`, errno.LookNoFolder},
	}
	for _, tt := range tests {
		if got := LookAt(tt.path, kindOf); got != tt.want {
			t.Errorf("LookAt(%s) = %d, want %d", tt.path, got, tt.want)
		}
	}
}
