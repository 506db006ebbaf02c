package drive

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const guid = "6c2fcb2e-0a6b-4f6b-9b2f-0123456789ab"

func writeMount(w *strings.Builder, m Mount) {
	fmt.Fprintf(w, "%d %d %d:%d %s %s rw - %s %s %s\n", m.ID, m.Parent, m.Major, m.Minor, encodeOctal(m.Root),
		encodeOctal(m.Point), encodeOctal(m.FSType), encodeOctal(m.Source), m.Super)
}

// tagLinks stands in for /run/wsl/virtiofs.
func tagLinks(links map[string]string) func(string) (string, error) {
	return func(path string) (string, error) {
		if target, ok := links[path]; ok {
			return target, nil
		}
		return "", os.ErrNotExist
	}
}

func TestHostPath(t *testing.T) {
	readlink := tagLinks(map[string]string{
		"/run/wsl/virtiofs/" + guid:                  `C:\`,
		"/run/wsl/virtiofs/{" + guid + "}":           `D:/data`,
		"/run/wsl/virtiofs/" + strings.ToUpper(guid): `\\srv\share`,
		"/run/wsl/virtiofs/" + strings.Repeat("0", 8) + "-0000-0000-0000-" + strings.Repeat("0", 12): "nonsense",
	})
	const p9 = "rw,aname=drvfs;path=%s;uid=1000;gid=1000;symlinkroot=/mnt/,cache=0x5,access=client,msize=65536,trans=fd,rfd=5,wfd=5"
	tests := []struct {
		name                  string
		fstype, source, super string
		path, want            string // want empty: no drive
	}{
		{"9p", "9p", `C:\`, fmt.Sprintf(p9, `C:\`), "/tmp/x", `C:\tmp\x`},
		{"9p root", "9p", `C:\`, fmt.Sprintf(p9, `C:\`), "/", `C:\`},
		{"9p bare letter", "9p", `C:`, fmt.Sprintf(p9, `C:`), "/", `C:\`},
		{"9p folder", "9p", `C:\a`, fmt.Sprintf(p9, `C:\a\b`), "/c", `C:\a\b\c`},
		{"9p slashes", "9p", `C:/a`, fmt.Sprintf(p9, `C:/a/b/`), "/c", `C:\a\b\c`},
		{"9p blank in the path", "9p", "x", fmt.Sprintf(p9, `C:\my dir`), "/c", `C:\my dir\c`},
		{"9p comma in the path", "9p", "x", fmt.Sprintf(p9, `C:\a,b`), "/c", `C:\a,b\c`},
		{"9p comma and a trap", "9p", "x", fmt.Sprintf(p9, `C:\a,aname=x`), "/c", `C:\a,aname=x\c`},
		{"9p path last", "9p", "x", `rw,aname=drvfs;uid=0;path=D:\x,cache=5`, "/c", `D:\x\c`},
		{"9p aname first", "9p", "x", `aname=drvfs;path=D:\;uid=0`, "/c", `D:\c`},
		{"9p elevated", "9p", "drvfsa", `rw,aname=drvfsa;path=D:\;uid=0,trans=virtio`, "/c", `D:\c`},
		{"9p UNC", "9p", `\\srv\share`, fmt.Sprintf(p9, `UNC\srv\share`), "/x", `\\srv\share\x`},
		{"9p UNC root", "9p", `\\srv\share`, fmt.Sprintf(p9, `UNC\srv\share\`), "/", `\\srv\share`},
		{"9p escapes", "9p", "x", fmt.Sprintf(p9, `C:\`), "/a:b", "C:\\a\uf03ab"},
		{"9p other path option", "9p", "x", `rw,aname=drvfs;symlinkpath=C:\;uid=0`, "/c", ""},
		{"9p relative path", "9p", "x", fmt.Sprintf(p9, `Cx\y`), "/c", ""},
		{"9p drive relative path", "9p", "x", fmt.Sprintf(p9, `C:y`), "/c", ""},
		{"9p empty path", "9p", "x", fmt.Sprintf(p9, ``), "/c", ""},
		{"9p without path", "9p", "x", `rw,aname=drvfs,trans=fd`, "/c", ""},
		{"9p of others", "9p", `C:\`, `rw,aname=docker;path=C:\,trans=fd`, "/c", ""},
		{"9p without aname", "9p", `C:\`, `rw,trans=fd`, "/c", ""},
		{"9p aname inside of another option", "9p", "x", `rw,xaname=drvfs;path=C:\;`, "/c", ""},
		{"virtiofs tag", "virtiofs", guid, "rw", "/a/b", `C:\a\b`},
		{"virtiofs tag in braces", "virtiofs", "{" + guid + "}", "rw", "/a", `D:\data\a`},
		{"virtiofs tag of a share", "virtiofs", strings.ToUpper(guid), "rw", "/a", `\\srv\share\a`},
		{"virtiofs tag unknown", "virtiofs", strings.Replace(guid, "6", "7", 1), "rw", "/a", ""},
		{"virtiofs tag to nonsense", "virtiofs", "00000000-0000-0000-0000-000000000000", "rw", "/a", ""},
		{"virtiofs tag that climbs", "virtiofs", "../../../../../../../../../../../../e", "rw", "/a", ""},
		{"virtiofs of others", "virtiofs", "myfs", "rw", "/a", ""},
		{"virtiofs aggregate", "virtiofs", "drvfs", "rw", "/" + guid + "/a/b", `C:\a\b`},
		{"virtiofs aggregate root", "virtiofs", "drvfsa", "rw", "/" + guid, `C:\`},
		{"virtiofs aggregate's own root", "virtiofs", "drvfsa", "rw", "/", ""},
		{"virtiofs aggregate, no GUID", "virtiofs", "drvfs", "rw", "/x/a", ""},
		{"virtiofs old", "virtiofs", "drvfsC1", "rw", "/a", `C:\a`},
		{"virtiofs old elevated", "virtiofs", "drvfsaD12", "rw", "/", `D:\`},
		{"virtiofs old without number", "virtiofs", "drvfsC", "rw", "/", `C:\`},
		{"virtiofs nearly old", "virtiofs", "drvfsC1x", "rw", "/", ""},
		{"virtiofs nearly old, lower case", "virtiofs", "drvfsb", "rw", "/", ""},
		{"WSL 1", "drvfs", "C:", "rw", "/a", `C:\a`},
		{"WSL 1 slash", "drvfs", "C:/", "rw", "/", `C:\`},
		{"WSL 1 folder", "drvfs", `D:\x\`, "rw", "/a", `D:\x\a`},
		{"WSL 1 share", "drvfs", "//srv/share", "rw", "/a", `\\srv\share\a`},
		{"ext4", "ext4", `C:\`, `rw,aname=drvfs;path=C:\;`, "/a", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := Mount{Root: "/", Point: "/m", FSType: tt.fstype, Source: tt.source, Super: tt.super}
			got, ok := m.HostPath(tt.path, readlink)
			if string(got) != tt.want || ok != (tt.want != "") {
				t.Errorf("HostPath(%q) = %q, %v, want %q", tt.path, got, ok, tt.want)
			}
		})
	}
}

func TestTableHost(t *testing.T) {
	c := Mount{Major: 0, Minor: 50, Root: "/", Point: "/mnt/c", FSType: "9p", Super: `rw,aname=drvfs;path=C:\;uid=0`}
	d := Mount{Major: 0, Minor: 51, Root: "/", Point: "/mnt/d", FSType: "9p", Super: `rw,aname=drvfs;path=D:\;uid=0`}
	ext := Mount{Major: 8, Minor: 1, Root: "/", Point: "/", FSType: "ext4"}
	other := Mount{Major: 8, Minor: 2, Root: "/", Point: "/", FSType: "ext4"}
	auto := &Table{}
	override := &Table{letters: map[byte]bool{'C': true, 'E': true}, views: []view{
		{'E', 8, 1, "/srv/c/sub"}, {'C', 8, 1, "/srv/c"},
	}}
	only := &Table{letters: map[byte]bool{'F': true}, only: true, views: []view{{'F', 8, 1, "/"}}}
	tests := []struct {
		name  string
		table *Table
		mount Mount
		path  string
		want  string
	}{
		{"drive", auto, c, "/a", `C:\a`},
		{"no drive", auto, ext, "/a", ""},
		{"view", override, ext, "/srv/c/a", `C:\a`},
		{"view itself", override, ext, "/srv/c", `C:\`},
		{"beside the view", override, ext, "/srv/cc", ""},
		{"above the view", override, ext, "/srv", ""},
		{"view in the view", override, ext, "/srv/c/sub/x:y", "E:\\x\uf03ay"},
		{"beside the view in the view", override, ext, "/srv/c/subs", `C:\subs`},
		{"same path, other device", override, other, "/srv/c/a", ""},
		{"overridden drive's mount", override, c, "/a", ""},
		{"other drive's mount", override, d, "/a", `D:\a`},
		{"overrides only", only, d, "/a", ""},
		{"root as a view", only, ext, "/a/b", `F:\a\b`},
		{"root itself as a view", only, ext, "/", `F:\`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := tt.table.Host(Location{tt.mount, tt.path})
			if string(got) != tt.want || ok != (tt.want != "") {
				t.Errorf("Host(%q) = %q, %v, want %q", tt.path, got, ok, tt.want)
			}
			if ok && !tt.table.maybe(&tt.mount) {
				t.Errorf("maybe says no to a mount with a drive on it")
			}
		})
	}
}

func TestParseOverride(t *testing.T) {
	tests := []struct {
		in   string
		want Override
		ok   bool
	}{
		{"C=/srv", Override{'C', "/srv"}, true},
		{"c=x=y", Override{'C', "x=y"}, true},
		{"C=", Override{}, false}, {"=x", Override{}, false}, {"C", Override{}, false},
		{"CD=/x", Override{}, false}, {"1=/x", Override{}, false}, {"", Override{}, false}, {"C:=/x", Override{}, false},
	}
	for _, tt := range tests {
		got, err := ParseOverride(tt.in)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("ParseOverride(%q) = %v, %v, want %v, ok %v", tt.in, got, err, tt.want, tt.ok)
		}
	}
}
