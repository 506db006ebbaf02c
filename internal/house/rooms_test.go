package house

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var quoted = regexp.MustCompile("`([^`]+)`")

// TestRooms holds the code to the table of rooms in docs/architecture.md: each
// package of internal is in it, and imports only what stands further down. The
// rows that name several packages at its end are for all.
func TestRooms(t *testing.T) {
	const module = "drvsock/"
	doc, err := os.ReadFile(filepath.Join(top(t), "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(doc), "\n## Rooms\n")
	table, _, _ = strings.Cut(table, "\n## ")
	row := make(map[string]int) // of a package
	for i, line := range strings.Split(table, "\n") {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[1], -1) {
			row["internal/"+strings.TrimPrefix(m[1], "internal/")] = i
		}
	}
	base := row["internal/errno"]
	if base == 0 || row["internal/cli"] == 0 {
		t.Fatalf("the table has changed its form: %v", row)
	}
	fset, files := parsed(t, product)
	for _, f := range files {
		name := fset.Position(f.Pos()).Filename
		from := room(path.Dir(filepath.ToSlash(name)))
		if !strings.HasPrefix(from, "internal/") {
			continue
		}
		if row[from] == 0 {
			t.Errorf("%s has no room in docs/architecture.md", from)
			row[from] = base
		}
		for _, imp := range f.Imports {
			to, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			to = room(strings.TrimPrefix(to, module))
			if !strings.HasPrefix(to, "internal/") || to == from || row[to] == base || row[from] == base {
				continue
			}
			if row[to] <= row[from] {
				t.Errorf("%s: %s imports %s, which stands above it or beside it in docs/architecture.md", name, from, to)
			}
		}
	}
}

// room is the package that a package of a folder below it belongs to.
func room(pkg string) string {
	parts := strings.Split(pkg, "/")
	return strings.Join(parts[:min(2, len(parts))], "/")
}
