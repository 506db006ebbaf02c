package errno

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// pageTables returns the tables of docs/errors.md as rows of cells, by the
// heading that they stand under, without head and rule.
func pageTables(t *testing.T) map[string][][]string {
	t.Helper()
	page, err := os.ReadFile("../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	tables, heading := map[string][][]string{}, ""
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSpace(line)
		if h, ok := strings.CutPrefix(line, "## "); ok {
			heading = h
		}
		if !strings.HasPrefix(line, "|") {
			continue
		}
		var cells []string
		for c := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.TrimSpace(c))
		}
		tables[heading] = append(tables[heading], cells)
	}
	for h, rows := range tables {
		tables[h] = rows[2:]
	}
	return tables
}

func TestPageHasWindowsTable(t *testing.T) {
	rows := pageTables(t)["What Windows says"]
	var got, want []string
	for _, r := range rows {
		got = append(got, strings.Join(r[:3], " "))
	}
	for _, w := range windowsErrors {
		want = append(want, fmt.Sprintf("%s %d %v", w.name, w.number, w.errno))
	}
	if !slices.Equal(got, want) {
		for _, w := range want {
			if !slices.Contains(got, w) {
				t.Errorf("the page lacks %s", w)
			}
		}
		for _, g := range got {
			if !slices.Contains(want, g) {
				t.Errorf("the table lacks %s", g)
			}
		}
		t.Error("page and table differ")
	}
}

func TestPageHasLayers(t *testing.T) {
	rows := pageTables(t)["Who refused"]
	for i, l := range []Layer{LayerGuest, LayerLink, LayerAgent, LayerHost} {
		if i >= len(rows) || rows[i][0] != l.String() {
			t.Errorf("row %d isn't about %v: %q", i, l, rows)
		}
	}
}

// The numbers and layers of the table for programs exist.
func TestPageNamesErrnos(t *testing.T) {
	known := map[string]bool{}
	for _, n := range names {
		known[n] = true
	}
	layers := []string{"guest", "link", "agent", "host"}
	rows := pageTables(t)["What it means to the program"]
	if !slices.IsSortedFunc(rows, func(a, b []string) int { return strings.Compare(a[0], b[0]) }) {
		t.Error("rows are not in order")
	}
	for _, r := range rows {
		if !known[r[0]] {
			t.Errorf("%s is no number of drvsock's", r[0])
		}
		for l := range strings.SplitSeq(r[3], ", ") {
			if !slices.Contains(layers, l) {
				t.Errorf("%s: %q is no layer", r[0], l)
			}
		}
	}
}

// The refinement of the page is that of Refine, for each coarse number.
func TestPageHasRefinement(t *testing.T) {
	looks := []Look{LookNoFolder, LookNotFolder, LookMissing, LookSocket, LookOther, LookUnknown}
	columns := [][]Op{{OpBind}, {OpConnect}, {OpStat, OpUnlink}}
	rows := pageTables(t)["Refinement"]
	if len(rows) != len(looks) {
		t.Fatalf("%d rows, want %d", len(rows), len(looks))
	}
	for n := range names {
		if !coarse(n) {
			continue
		}
		for i, look := range looks {
			for j, ops := range columns {
				cell := rows[i][j+1]
				want := n
				if first, special, ok := strings.Cut(cell, "; "); ok && special == "ECONNREFUSED for "+n.String() {
					want = ECONNREFUSED
				} else if first != "kept" {
					want = byName(t, first)
				}
				for _, op := range ops {
					if got := Refine(op, n, look); got != want {
						t.Errorf("%s, call %d, %v: the page says %v, Refine %v", rows[i][0], op, n, want, got)
					}
				}
			}
		}
	}
}

func byName(t *testing.T, name string) Errno {
	t.Helper()
	for n, s := range names {
		if s == name {
			return n
		}
	}
	t.Fatalf("no errno %s", strconv.Quote(name))
	return 0
}
