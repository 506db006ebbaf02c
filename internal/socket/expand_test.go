package socket

import (
	"strings"
	"testing"

	"drvsock/internal/errno"
)

func TestExpand(t *testing.T) {
	env := map[string]string{"LOCALAPPDATA": `C:\Users\me\AppData\Local`, "X": "%X%", "EMPTY": ""}
	lookup := func(k string) (string, bool) { v, ok := env[k]; return v, ok }
	for path, want := range map[string]string{
		``:                        ``,
		`C:\x`:                    `C:\x`,
		`%LOCALAPPDATA%\x.sock`:   `C:\Users\me\AppData\Local\x.sock`,
		`a%X%b%LOCALAPPDATA%%%c%`: `a%X%bC:\Users\me\AppData\Local%c%`,
		`100%`:                    `100%`,
		`%%X%%`:                   `%X%`,
	} {
		if got, err := expand(path, lookup); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", path, got, err, want)
		}
	}
	for path, name := range map[string]string{`%NONE%\x`: "NONE", `%EMPTY%\x`: "EMPTY", `%X%%NONE%`: "NONE", `% %`: " "} {
		_, err := expand(path, lookup)
		if errno.Of(err) != errno.ENOENT {
			t.Errorf("%s: %v", path, err)
		} else if !strings.HasSuffix(err.Error(), "variable "+name) {
			t.Errorf("%s: %v doesn't name %s", path, err, name)
		}
	}
}
