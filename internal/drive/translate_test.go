package drive

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

// A guest as WSL sets it up, with what people and programs mount on top.
const guestMounts = `22 28 0:21 / /proc rw - proc proc rw
28 1 8:32 / / rw,relatime - ext4 /dev/sdc rw
30 28 0:30 / /mnt/wsl rw - tmpfs none rw
60 28 0:50 / /mnt/c rw,noatime - 9p C:\134 rw,aname=drvfs;path=C:\;uid=1000;gid=1000;symlinkroot=/mnt/,cache=0x5,access=client,msize=65536,trans=fd,rfd=5,wfd=5
61 28 0:51 / /mnt/d rw,noatime - 9p drvfs rw,aname=drvfs;path=D:\;uid=1000;gid=1000;symlinkroot=/mnt/,cache=0x5,access=client,msize=262144,trans=virtio
62 28 0:52 / /mnt/e rw,noatime - virtiofs 6c2fcb2e-0a6b-4f6b-9b2f-0123456789ab rw
63 28 0:53 / /run/wsl/virtiofs-mounts/drvfs rw - virtiofs drvfs rw
64 28 0:53 /7c2fcb2e-0a6b-4f6b-9b2f-0123456789ab /mnt/f rw - virtiofs drvfs rw
65 28 0:53 /7c2fcb2e-0a6b-4f6b-9b2f-0123456789ab/deep /srv/deep rw - virtiofs drvfs rw
66 28 0:50 /Users/me/a:b /home/me/bind rw - 9p C:\134 rw,aname=drvfs;path=C:\;uid=1000
67 28 0:54 / /mnt/share\040one rw - 9p \134\134srv\134share rw,aname=drvfs;path=UNC\srv\share;uid=1000
68 60 0:55 / /mnt/c/foreign rw - tmpfs  rw
69 60 0:56 / /mnt/c/fat rw - 9p C:\134ntfs rw,aname=drvfs;path=C:\ntfs;uid=1000
70 28 0:57 / /mnt/g rw - drvfs G: rw
71 28 0:58 / /mnt/h rw - 9p H:\134 rw,aname=drvfs;path=H:\;uid=1000
72 71 0:59 / /mnt/h rw - tmpfs hides rw
73 28 0:60 / /mnt/docker rw - 9p docker rw,aname=other;path=C:\,trans=fd
74 28 0:61 / /mnt/with,comma rw - 9p K:\134a,b rw,aname=drvfs;path=K:\a,b;uid=1000
75 28 0:62 / /mnt/n/#x rw - 9p N:\134 rw,aname=drvfs;path=N:\;uid=1000
76 28 0:62 / /mnt/n2 rw - 9p N:\134 rw,aname=drvfs;path=N:\;uid=1000
77 28 0:63 /gone//deleted /mnt/gone rw - 9p P:\134 rw,aname=drvfs;path=P:\;uid=1000
`

func guestOptions(t testing.TB) TranslateOptions {
	mounts, err := ParseMounts(strings.NewReader(guestMounts))
	if err != nil || len(mounts) != strings.Count(guestMounts, "\n") {
		t.Fatalf("parsed %d mounts, error %v", len(mounts), err)
	}
	return TranslateOptions{
		Mounts: mounts, Distro: "Ubuntu", Dir: "/mnt/c/proj",
		Realpath: func(string) (string, error) { return "", os.ErrNotExist },
		Readlink: tagLinks(map[string]string{
			tagDir + "6c2fcb2e-0a6b-4f6b-9b2f-0123456789ab": `E:\`,
			tagDir + "7c2fcb2e-0a6b-4f6b-9b2f-0123456789ab": `F:\`,
		}),
	}
}

type translation struct {
	in, dir, want string // want empty: an error
	abs           bool
}

func runTranslations(t *testing.T, mode Mode, tests []translation) {
	for _, tt := range tests {
		opts := guestOptions(t)
		opts.Mode, opts.Absolute = mode, tt.abs
		if tt.dir != "" {
			opts.Dir = tt.dir
		}
		got, err := Translate(opts, tt.in)
		switch {
		case got != tt.want || (err != nil) != (tt.want == ""):
			t.Errorf("in %s: %q (absolute %v) = %q, %v, want %q", opts.Dir, tt.in, tt.abs, got, err, tt.want)
		case err != nil && (!errors.Is(err, ErrInvalid) || !strings.HasPrefix(err.Error(), tt.in+": Invalid argument")):
			t.Errorf("%q gives the error %q", tt.in, err)
		}
	}
}

func TestTranslateToWindows(t *testing.T) {
	runTranslations(t, ToWindows, []translation{
		{in: "/mnt/c", want: `C:\`},
		{in: "/mnt/c/", want: `C:\`},
		{in: "/mnt/c/Users", want: `C:\Users`},
		{in: "/mnt/c/Users/", want: `C:\Users\`},
		{in: "/mnt/c/DOESNOTEXIST/", want: `C:\DOESNOTEXIST\`},
		{in: "/mnt/c/Program Files (x86)/Git", want: `C:\Program Files (x86)\Git`},
		{in: "/mnt/cc", want: `\\wsl.localhost\Ubuntu\mnt\cc`},
		{in: "/mnt/C/x", want: `\\wsl.localhost\Ubuntu\mnt\C\x`},
		{in: "/mnt/c/a\\:b", want: "C:\\a\uf05c\uf03ab"},
		{in: "/mnt/c//a/./b/../c", want: `C:\a\c`},
		{in: "/mnt/c/a//..", want: `C:\`},
		{in: "/mnt/c/a/./..", want: `C:\`},
		{in: "/mnt/c/a/.", want: `C:\a\`},
		{in: "/mnt/c/a/..", want: `C:\`},
		{in: "/mnt/c/..", want: `\\wsl.localhost\Ubuntu\mnt\`},
		{in: "/..", want: ""},
		{in: "/mnt/c/../../..", want: ""},
		{in: "/mnt/d/x", want: `D:\x`},
		{in: "/mnt/e/x", want: `E:\x`},
		{in: "/mnt/f/x", want: `F:\x`},
		{in: "/mnt/f", want: `F:\`},
		{in: "/srv/deep/x", want: `F:\deep\x`},
		{in: "/run/wsl/virtiofs-mounts/drvfs/7c2fcb2e-0a6b-4f6b-9b2f-0123456789ab/x", want: `F:\x`},
		{in: "/mnt/g/x", want: `G:\x`},
		{in: "/mnt/g", want: `G:\`},
		{in: "/home/me/bind/x", want: "C:\\Users\\me\\a\uf03ab\\x"},
		{in: "/home/me/bind", want: "C:\\Users\\me\\a\uf03ab"},
		{in: "/home/me/bind/", want: "C:\\Users\\me\\a\uf03ab\\"},
		{in: "/mnt/share one/x", want: `\\srv\share\x`},
		{in: "/mnt/share one", want: `\\srv\share`},
		{in: "/mnt/with,comma/x", want: `K:\a,b\x`},
		{in: "/mnt/n/#x/y", want: `N:\y`},
		{in: "/mnt/c/foreign/x", want: `\\wsl.localhost\Ubuntu\mnt\c\foreign\x`},
		{in: "/mnt/c/foreign", want: `\\wsl.localhost\Ubuntu\mnt\c\foreign`},
		{in: "/mnt/c/foreigner", want: `C:\foreigner`},
		{in: "/mnt/c/fat/x", want: `C:\ntfs\x`},
		{in: "/mnt/h/x", want: `\\wsl.localhost\Ubuntu\mnt\h\x`},
		{in: "/mnt/docker/x", want: `\\wsl.localhost\Ubuntu\mnt\docker\x`},
		{in: "/mnt/gone/x", want: `\\wsl.localhost\Ubuntu\mnt\gone\x`},
		{in: "/", want: `\\wsl.localhost\Ubuntu\`},
		{in: "/root", want: `\\wsl.localhost\Ubuntu\root`},
		{in: "/proc/1/", want: `\\wsl.localhost\Ubuntu\proc\1\`},
		{in: "/data/foo\\:bar", want: "\\\\wsl.localhost\\Ubuntu\\data\\foo\uf05c\uf03abar"},
		{in: "foo", want: "foo"},
		{in: "foo/", want: `foo\`},
		{in: "foo/bar", want: `foo\bar`},
		{in: "foo", abs: true, want: `C:\proj\foo`},
		{in: "", want: "."},
		{in: ".", want: "."},
		{in: "x/..", want: "."},
		{in: "../other", want: `C:\other`},
		{in: "../proj/x", want: "x"},
		{in: "../projector", want: `C:\projector`},
		{in: "foo", dir: "/mnt/c", want: `C:\foo`}, // as wslpath: the folder ends with a separator
		{in: "foo", dir: "/home/me", want: "foo"},
		{in: "foo", dir: "/home/me", abs: true, want: `\\wsl.localhost\Ubuntu\home\me\foo`},
		{in: "a:b", dir: "/home/me", want: "a\uf03ab"},
	})
}

func TestTranslateToMixed(t *testing.T) {
	runTranslations(t, ToMixed, []translation{
		{in: "/mnt/c", want: "C:/"},
		{in: "/mnt/c/Users/", want: "C:/Users/"},
		{in: "/mnt/c/a\\b", want: "C:/a\uf05cb"},
		{in: "/root", want: "//wsl.localhost/Ubuntu/root"},
		{in: "/mnt/share one/x", want: "//srv/share/x"},
		{in: "foo/bar", want: "foo/bar"},
		{in: "foo/bar", abs: true, want: "C:/proj/foo/bar"},
	})
}

func TestTranslateToUnix(t *testing.T) {
	runTranslations(t, ToUnix, []translation{
		{in: `C:\`, want: "/mnt/c/"},
		{in: `C:\Foo`, want: "/mnt/c/Foo"},
		{in: `C:\Foo\`, want: "/mnt/c/Foo/"},
		{in: `C:\Foo\bar`, want: "/mnt/c/Foo/bar"},
		{in: `C:/Foo/bar`, want: "/mnt/c/Foo/bar"},
		{in: `C:\\Foo//\bar`, want: "/mnt/c/Foo/bar"},
		{in: `c:\foo`, want: "/mnt/c/foo"},
		{in: `C:\Program Files\Git`, want: "/mnt/c/Program Files/Git"},
		{in: `C:\a\..\b\.\c`, want: "/mnt/c/b/c"},
		{in: `C:\a\\..`, want: "/mnt/c/"},
		{in: `C:\a\.\..\b`, want: "/mnt/c/b"},
		{in: `C:\..`, want: ""},
		{in: `C:\a\..\..\b`, want: ""},
		{in: "C:\\a\uf03ab", want: "/mnt/c/a\uf03ab"}, // DrvFS knows both names
		{in: `\\?\C:\Users`, want: "/mnt/c/Users"},
		{in: `\\?\C:\Users\`, want: "/mnt/c/Users/"},
		{in: `//?/C:/Users`, want: "/mnt/c/Users"},
		{in: `\\?\UNC\srv\share\x`, want: ""},
		{in: `\\?\`, want: ""},
		{in: `\\.\pipe\x`, want: ""},
		{in: `D:\x`, want: "/mnt/d/x"},
		{in: `E:\x`, want: "/mnt/e/x"},
		{in: `F:\x`, want: "/mnt/f/x"},
		{in: `F:\deep\x`, want: "/srv/deep/x"},
		{in: `F:\deeper\x`, want: "/mnt/f/deeper/x"},
		{in: `G:\x`, want: "/mnt/g/x"},
		{in: "C:\\Users\\me\\a\uf03ab\\x", want: "/home/me/bind/x"},
		{in: `\\srv\share\x`, want: "/mnt/share one/x"},
		{in: `\\SRV\Share`, want: "/mnt/share one"},
		{in: `\\srv\shared\x`, want: ""},
		{in: `\\srv\share\..\other`, want: ""},
		{in: `K:\a,b\x`, want: "/mnt/with,comma/x"},
		{in: `K:\a`, want: ""},
		{in: `N:\x`, want: "/mnt/n2/x"}, // the later of two
		{in: `C:\ntfs\x`, want: "/mnt/c/fat/x"},
		{in: `C:\foreign\x`, want: ""},
		{in: `C:\foreigner`, want: "/mnt/c/foreigner"},
		{in: `H:\x`, want: ""},
		{in: `P:\x`, want: ""},
		{in: `Z:\x`, want: ""},
		{in: `C:foo`, want: ""},
		{in: `C:`, want: "C:"}, // too short to be absolute
		{in: `\\wsl.localhost\Ubuntu`, want: "/"},
		{in: `\\wsl.localhost\Ubuntu\`, want: "/"},
		{in: `\\wsl.localhost\Ubuntu\root`, want: "/root"},
		{in: `\\WSL.LocalHost\ubuntu\etc\`, want: "/etc/"},
		{in: `\\wsl.localhost\Ubuntu/proc/stat`, want: "/proc/stat"},
		{in: `\\wsl$\Ubuntu\proc\stat`, want: "/proc/stat"},
		{in: `\\wsl$\Ubuntu`, want: "/"},
		{in: `//wsl$/Ubuntu/x`, want: "/x"},
		{in: `\\wsl.localhost\Ubuntu-other\foo`, want: ""},
		{in: `\\wsl.localhost\UbuntuX\foo`, want: ""},
		{in: `\\wsl$\Ubuntu-other\foo`, want: ""},
		{in: `\\wsl.localhost\Ubuntu\..\Debian\x`, want: ""},
		{in: "\\\\wsl.localhost\\Ubuntu\\data\\foo\uf05c\uf03abar", want: "/data/foo\\:bar"},
		{in: "\\\\wsl.localhost\\Ubuntu\\a\uff3a\uf000\uf02fb", want: "/a\uff3a\uf000\uf02fb"},
		{in: ".", want: "."},
		{in: "", want: "."},
		{in: "foo", want: "foo"},
		{in: `foo\`, want: "foo/"},
		{in: `foo\bar`, want: "foo/bar"},
		{in: "foo", abs: true, want: "/mnt/c/proj/foo"},
		{in: ".", abs: true, want: "/mnt/c/proj/"},
		{in: `..\x`, want: "/mnt/c/x"},
		{in: `..\proj`, want: "."},
		{in: `..\proj\x`, want: "x"},
		{in: `..\..\x`, want: ""},
		{in: `\x`, want: "/mnt/c/x"},
		{in: `/proj/x`, want: "x"},
		{in: `\x`, dir: "/home/me", want: ""},
		{in: "foo", dir: "/home/me", want: "foo"},
		{in: `..\x`, dir: "/home/me", want: "/home/x"},
		{in: "foo", dir: "/mnt/c", want: "foo"},
		{in: "foo", dir: "/", want: "/foo"}, // as wslpath
		{in: "foo", dir: "/mnt/c/a:b", want: "foo"},
		{in: "foo", dir: "/mnt/n/#x/y", want: "foo"},
	})
}

func TestTranslateWithoutDistro(t *testing.T) {
	opts := guestOptions(t)
	opts.Distro = ""
	for _, tt := range []struct {
		mode Mode
		in   string
		want string
	}{
		{ToWindows, "/mnt/c/x", `C:\x`},
		{ToWindows, "/root", ""},
		{ToUnix, `C:\x`, "/mnt/c/x"},
		{ToUnix, `\\wsl.localhost\Ubuntu\x`, ""},
		{ToUnix, `\\wsl.localhost\x`, ""},
	} {
		opts.Mode = tt.mode
		got, err := Translate(opts, tt.in)
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%q = %q, %v, want %q", tt.in, got, err, tt.want)
		}
		if err != nil && !strings.Contains(err.Error(), "WSL_DISTRO_NAME") {
			t.Errorf("%q: error %q doesn't say what is missing", tt.in, err)
		}
	}
}

// Symbolic links are followed on the way to Windows, where the path exists.
func TestTranslateRealpath(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "target/sub"), 0o755),
		os.Symlink("target", filepath.Join(dir, "link")),
		os.Symlink("loop", filepath.Join(dir, "loop")),
		os.WriteFile(filepath.Join(dir, "file"), nil, 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	opts := TranslateOptions{Mode: ToWindows, Distro: "D"}
	host := `\\wsl.localhost\D` + strings.ReplaceAll(dir, "/", `\`)
	for _, tt := range []struct {
		in, want string
		err      error
	}{
		{"/link", `\target`, nil},
		{"/link/", `\target\`, nil},
		{"/link/sub", `\target\sub`, nil},
		{"/link/sub/..", `\target`, nil},
		{"/link/none", `\link\none`, nil},
		{"/none/../x", `\x`, nil},
		{"/loop", "", syscall.ELOOP},
		{"/file/x", "", syscall.ENOTDIR},
		{"/" + strings.Repeat("x", 300), "", syscall.ENAMETOOLONG},
	} {
		got, err := Translate(opts, dir+tt.in)
		want := host + tt.want
		if tt.err != nil {
			want = ""
		}
		if got != want || !errors.Is(err, tt.err) {
			t.Errorf("%q = %q, %v, want %q, %v", tt.in, got, err, want, tt.err)
		}
	}
	_, err = Translate(opts, dir+"/loop")
	if got, want := err.Error(), dir+"/loop: Too many levels of symbolic links"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
	opts.Realpath = func(string) (string, error) { return "", &fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES} }
	if _, err = Translate(opts, "/x"); err == nil || err.Error() != "/x: Permission denied" {
		t.Errorf("error %v", err)
	}
	// A path that exists is absolute from there on, as with wslpath.
	t.Chdir(dir)
	opts.Realpath = nil
	for in, want := range map[string]string{"link": host + `\target`, "none": "none", ".": host} {
		if got, err := Translate(opts, in); got != want || err != nil {
			t.Errorf("%q = %q, %v, want %q", in, got, err, want)
		}
	}
}

// There and back again leads to the same host file.
func TestTranslateRoundTrip(t *testing.T) {
	opts := guestOptions(t)
	elem := rapid.StringMatching(`[a-z:*\\#. ]{1,6}`).Filter(func(s string) bool { return s != "." && s != ".." })
	rapid.Check(t, func(t *rapid.T) {
		top := rapid.SampledFrom([]string{"/mnt/c", "/mnt/f", "/home/me/bind", "/srv/deep", "/mnt/share one", "/root", "/mnt/c/fat"}).Draw(t, "top")
		path := top + "/" + strings.Join(rapid.SliceOfN(elem, 0, 3).Draw(t, "elems"), "/")
		opts.Mode = ToWindows
		host, err := Translate(opts, path)
		if err != nil {
			t.Fatalf("%q: %v", path, err)
		}
		opts.Mode = ToUnix
		back, err := Translate(opts, host)
		if err != nil {
			t.Fatalf("%q, from %q: %v", host, path, err)
		}
		opts.Mode = ToWindows
		if again, err := Translate(opts, back); again != host || err != nil {
			t.Fatalf("%q -> %q -> %q -> %q, %v", path, host, back, again, err)
		}
		if strings.HasPrefix(top, "/root") && back != path {
			t.Fatalf("%q -> %q -> %q", path, host, back)
		}
	})
}

func FuzzTranslate(f *testing.F) {
	for _, s := range []string{`C:\`, "/mnt/c/../x", `\\?\`, `\\`, "", "..", `\\wsl$\Ubuntu`, "/mnt/h"} {
		f.Add(s, uint8(0), false)
		f.Add(s, uint8(1), true)
	}
	opts := guestOptions(f)
	f.Fuzz(func(t *testing.T, path string, mode uint8, abs bool) {
		opts := opts
		opts.Mode, opts.Absolute = Mode(mode%3), abs
		got, err := Translate(opts, path)
		if (got == "") != (err != nil) {
			t.Fatalf("%q = %q, %v", path, got, err)
		}
		if err == nil && abs && opts.Mode == ToUnix && got[0] != '/' {
			t.Fatalf("%q = %q isn't absolute", path, got)
		}
	})
}
