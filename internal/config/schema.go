package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"drvsock/internal/report"
)

// A kind says what a key's value is: a text, unless it says otherwise.
type kind struct {
	list    bool
	boolean bool
	below   string // schema of a table, or of the tables of a list
}

// schema is the file's form, once more than in the types: so that a message can
// say what is meant, where a decoder speaks of Go's types.
var schema = map[string]map[string]kind{
	"file": {
		"link": {}, "embed": {list: true}, "drive": {list: true},
		"agent": {below: "agents"}, "forward": {list: true, below: "forward"},
		"mount": {list: true, below: "mount"},
	},
	"agents": {"*": {below: "agent"}},
	"agent":  {"link": {}, "embed": {list: true}, "drive": {list: true}},
	"forward": {
		"name": {}, "listen": {}, "connect": {}, "agent": {},
		"mode": {}, "owner": {}, "group": {}, "access": {list: true}, "message": {boolean: true},
		"allow": {below: "allow"}, "filter": {}, "env": {below: "env"},
	},
	"mount": {
		"dir": {}, "agent": {}, "own": {boolean: true}, "allow_other": {boolean: true}, "listen_late": {boolean: true},
	},
	"allow": {"user": {list: true}},
	"env":   {"*": {}},
}

// unknown notes a key that there is none of.
func (d *document) unknown(from, to int, name []string, within map[string]kind) {
	err := fmt.Errorf("unknown key %q", strings.Join(name, "."))
	if near := nearest(name[0], slices.Sorted(maps.Keys(within))); near != "" {
		err = report.Hint(err, "did you mean %s?", near)
	}
	d.fault(from, to-from, err)
}

// nearest is the word that s is most likely a slip for, "" if none is close.
func nearest(s string, words []string) string {
	best, at := "", 3 // two slips at most
	for _, w := range words {
		if n := distance(strings.ToLower(s), w); n < at && n < len(w) {
			best, at = w, n
		}
	}
	return best
}

// distance counts the insertions, deletions and replacements between two words.
func distance(a, b string) int {
	if len(a) > MaxName {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost++
			}
			last = row[j+1]
			row[j+1] = min(cost, row[j]+1, last+1)
		}
	}
	return row[len(b)]
}
