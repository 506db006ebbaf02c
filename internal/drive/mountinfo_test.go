package drive

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func TestParseMounts(t *testing.T) {
	tests := []struct {
		name, in string
		want     []Mount
	}{
		{"plain", "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n",
			[]Mount{{36, 35, 98, 0, "/mnt1", "/mnt2", "ext3", "/dev/root", "rw,errors=continue"}}},
		{"no optional fields", "36 35 98:0 / / rw - ext3 /dev/root rw",
			[]Mount{{36, 35, 98, 0, "/", "/", "ext3", "/dev/root", "rw"}}},
		{"several optional fields", "36 35 98:0 / / rw shared:1 master:2 propagate_from:3 x - ext3 src rw\n",
			[]Mount{{36, 35, 98, 0, "/", "/", "ext3", "src", "rw"}}},
		{"escapes", `36 35 98:0 /a\040b /c\011d\012\134e\043 rw - fuse.x\040y s\134\040t a\040b` + "\n",
			[]Mount{{36, 35, 98, 0, "/a b", "/c\td\n\\e#", "fuse.x y", `s\ t`, `a\040b`}}},
		{"no escapes", `36 35 98:0 /\4 /\777\08 rw - x \ rw` + "\n",
			[]Mount{{36, 35, 98, 0, `/\4`, `/\777\08`, "x", `\`, "rw"}}},
		{"drvfs over 9p", `60 28 0:50 / /mnt/c rw,noatime - 9p C:\134 rw,aname=drvfs;path=C:\my dir;uid=1000,trans=fd` + "\n",
			[]Mount{{60, 28, 0, 50, "/", "/mnt/c", "9p", `C:\`, `rw,aname=drvfs;path=C:\my dir;uid=1000,trans=fd`}}},
		{"empty source", "36 35 0:9 / /x rw - tmpfs  rw\n", []Mount{{36, 35, 0, 9, "/", "/x", "tmpfs", "", "rw"}}},
		{"empty options", "36 35 0:9 / /x rw - tmpfs none \n", []Mount{{36, 35, 0, 9, "/", "/x", "tmpfs", "none", ""}}},
		{"root that is no path", "36 35 0:4 net:[4026531840] /run/n rw - nsfs nsfs rw\n",
			[]Mount{{36, 35, 0, 4, "net:[4026531840]", "/run/n", "nsfs", "nsfs", "rw"}}},
		{"bad lines among good ones", strings.Join([]string{
			"36 35 98:0 / /a rw - ext3 d rw",
			"", "x", "36", "36 35 98:0 / /b rw ext3 d rw", "36 35 98:0 / /b rw - ext3", "36 35 98:0 / /b rw - ext3 d",
			"x 35 98:0 / /b rw - e d rw", "36 x 98:0 / /b rw - e d rw", "36 35 98 / /b rw - e d rw",
			"36 35 x:0 / /b rw - e d rw", "36 35 1:x / /b rw - e d rw", "36 35 1:4294967296 / /b rw - e d rw",
			"-36 35 98:0 / /b rw - e d rw", "36 35 98:0  /b rw - e d rw", "36 35 98:0 / b rw - e d rw",
			"36 35 98:0 / /b rw -  d rw",
			"37 35 98:0 / /c rw - ext3 d rw",
		}, "\n"), []Mount{
			{36, 35, 98, 0, "/", "/a", "ext3", "d", "rw"},
			{37, 35, 98, 0, "/", "/c", "ext3", "d", "rw"},
		}},
		{"nothing", "", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseMounts(strings.NewReader(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if len(got) == 0 {
				got = nil
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestParseMountsErrors(t *testing.T) {
	if _, err := ParseMounts(iotest.ErrReader(io.ErrUnexpectedEOF)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error of the reader came out as %v", err)
	}
	if _, err := ParseMounts(endless{}); err == nil {
		t.Error("a file without end was read to the end")
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, bytes.Repeat([]byte{'\n'}, len(p))), nil }

// encodeOctal is the kernel's side, for the fuzz test.
func encodeOctal(s string) string {
	return strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(s)
}

// What parses must come back the same when it is written as the kernel does.
func FuzzParseMounts(f *testing.F) {
	f.Add([]byte("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"))
	f.Add([]byte(`60 28 0:50 / /mnt/c rw - 9p C:\134 rw,aname=drvfs;path=C:\;uid=1000` + "\n"))
	f.Add([]byte("36 35 0:9 / /x rw - tmpfs  rw\n1 2 3:4 /\\0 /\\040 - - - - -\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		mounts, err := ParseMounts(bytes.NewReader(in))
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		for _, m := range mounts {
			writeMount(&out, m)
		}
		again, err := ParseMounts(strings.NewReader(out.String()))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(mounts, again); diff != "" {
			t.Errorf("written and read again, -first +second:\n%s", diff)
		}
		for _, m := range mounts {
			_, _ = m.HostPath(m.Root, func(string) (string, error) { return `C:\x`, nil })
		}
	})
}
