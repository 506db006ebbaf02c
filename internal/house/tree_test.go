package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A source is one file of the tree.
type source struct {
	path string // from the top of the module, with '/'
	text []byte
}

func (s source) isGo() bool   { return strings.HasSuffix(s.path, ".go") }
func (s source) isTest() bool { return strings.HasSuffix(s.path, "_test.go") }

// top returns the folder of go.mod.
func top(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = parent
	}
}

// sources reads every file of the tree but what is built, vendored or Git's.
func sources(t *testing.T) []source {
	t.Helper()
	root := top(t)
	var list []source
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		switch {
		case e.IsDir() && (rel == ".git" || rel == "dist" || rel == "vendor"):
			return filepath.SkipDir
		case !e.Type().IsRegular() || built(rel):
			return nil
		}
		text, err := os.ReadFile(path)
		list = append(list, source{rel, text})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 10 {
		t.Fatalf("found %d files only below %s", len(list), root)
	}
	return list
}

// built tells the files that stand in .gitignore.
func built(path string) bool { return path == "drvsock" || path == "drvsock.exe" }

// parsed returns the syntax trees of the tree's Go files that keep accepts.
func parsed(t *testing.T, keep func(source) bool) (*token.FileSet, []*ast.File) {
	t.Helper()
	fset := token.NewFileSet()
	var files []*ast.File
	for _, s := range sources(t) {
		if !s.isGo() || !keep(s) {
			continue
		}
		f, err := parser.ParseFile(fset, s.path, s.text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Error(err)
			continue
		}
		files = append(files, f)
	}
	return fset, files
}

func product(s source) bool { return !s.isTest() }
