package house

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/token"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// maxLines is the ceiling of a file's length. Most have 60 to 300 lines.
const maxLines = 500

func TestFormat(t *testing.T) {
	for _, s := range sources(t) {
		if !s.isGo() {
			continue
		}
		want, err := format.Source(s.text)
		if err != nil {
			t.Errorf("%s: %v", s.path, err)
		} else if !bytes.Equal(s.text, want) {
			t.Errorf("%s: gofmt would change it", s.path)
		}
	}
}

func TestLength(t *testing.T) {
	for _, s := range sources(t) {
		if n := bytes.Count(s.text, []byte("\n")); s.isGo() && n > maxLines {
			t.Errorf("%s has %d lines, more than %d", s.path, n, maxLines)
		}
	}
}

// TestErrorWords keeps openings out of errors that read badly once they are
// chained; the context is a noun or a gerund.
func TestErrorWords(t *testing.T) {
	bad := regexp.MustCompile(`(?i)\b(failed to|unable to|could not|couldn't)\b`)
	fset, files := parsed(t, product)
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && bad.MatchString(lit.Value) {
				t.Errorf("%v: %q in %s", fset.Position(lit.Pos()), bad.FindString(lit.Value), lit.Value)
			}
			return true
		})
	}
}

// TestNoMachine keeps names of the machine that someone works on out of the
// tree: the folder that holds the clone, the home folder, a module proxy.
func TestNoMachine(t *testing.T) {
	var bad []string
	root := top(t)
	switch parent := filepath.Dir(root); parent {
	case "/", "/tmp", "/src", "/app", "/go", "/usr/src", "/go/src", "/home", "/build", "/mnt":
		// too common to mean a machine
	default:
		bad = append(bad, parent+"/")
	}
	if home, err := os.UserHomeDir(); err == nil && len(home) > 1 {
		bad = append(bad, home+"/")
	}
	for _, name := range []string{"GOPROXY", "GOSUMDB", "HTTPS_PROXY", "PIP_INDEX_URL", "npm_config_registry"} {
		for _, part := range regexp.MustCompile(`[\s,|]+`).Split(os.Getenv(name), -1) {
			if u, err := url.Parse(part); err == nil && u.Host != "" && !public(u.Hostname()) {
				bad = append(bad, u.Host)
			}
		}
	}
	for _, s := range sources(t) {
		for _, b := range bad {
			for from := 0; ; {
				i := bytes.Index(s.text[from:], []byte(b))
				if i < 0 {
					break
				}
				i += from
				// "/x/src/" is no path of the machine if the folder is "/src/".
				if b[0] != '/' || i == 0 || !bytes.ContainsAny(s.text[i-1:i], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-/}*") {
					t.Errorf("%s:%d: %q is a name of this machine", s.path, 1+bytes.Count(s.text[:i], []byte("\n")), b)
				}
				from = i + len(b)
			}
		}
	}
}

func public(host string) bool {
	for _, p := range []string{"golang.org", "pypi.org", "npmjs.org", "localhost"} {
		if host == p || strings.HasSuffix(host, "."+p) {
			return true
		}
	}
	return false
}
