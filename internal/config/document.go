package config

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2/unstable"

	"drvsock/internal/report"
)

// A document is a text with the places of its values, by keys such as
// "forward.2.listen" and "forward.0.allow.user.1".
type document struct {
	path   string
	text   []byte
	at     map[string]span
	tables map[string][]table // of "forward" and "mount", in their order
	faults []error
	more   int // faults beyond maxFaults
}

// maxFaults is how many problems an error shows.
const maxFaults = 8

type span struct{ from, to int }

// A table is the lines of one [[forward]] or [[mount]]: from its header to the
// end of the line of its last value, with the tables below it.
type table struct{ from, to int }

// entry is one of the tables: what it is one of, "" for none, and its number.
type entry struct {
	what string
	i    int
}

// key joins the parts of a place's name; field may be empty.
func key(what string, i int, field string) string {
	k := what + "." + strconv.Itoa(i)
	if field != "" {
		k += "." + field
	}
	return k
}

// index walks the text once, notes where everything is, and checks it against
// the schema.
func (d *document) index() {
	p := unstable.Parser{KeepComments: true}
	p.Reset(d.text)
	at, within := "", schema["file"]
	var open, mine entry // the table that at is in; the one that the expression before is a part of
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind == unstable.Comment {
			d.close(mine, int(e.Raw.Offset))
			mine = entry{}
			continue
		}
		from, to := d.keySpan(e)
		d.close(mine, d.lineStart(from))
		switch e.Kind {
		case unstable.KeyValue:
			d.keyValue(&p, e, at, within)
		case unstable.ArrayTable:
			name := d.keyText(e)
			k := schema["file"][name[0]]
			if len(name) != 1 || !k.list || k.below == "" {
				d.unknown(from, to, name, schema["file"])
				return
			}
			what := name[0]
			d.tables[what] = append(d.tables[what], table{from: d.lineStart(from)})
			open = entry{what, len(d.tables[what]) - 1}
			at, within = key(what, open.i, "")+".", schema[k.below]
			d.at[strings.TrimSuffix(at, ".")] = span{from, to}
			if len(d.tables[what]) > MaxForwards {
				d.fault(from, to-from, fmt.Errorf("more than %d %ss", MaxForwards, what))
				return
			}
		case unstable.Table:
			var ok bool
			if at, within, ok = d.table(from, to, d.keyText(e)); !ok {
				return
			}
		}
		if mine = (entry{}); open.what != "" && strings.HasPrefix(at, open.what+".") {
			mine = open
		}
	}
	d.close(mine, len(d.text))
	var pe *unstable.ParserError
	if err := p.Error(); errors.As(err, &pe) {
		from := len(d.text)
		if pe.Highlight != nil {
			from = int(p.Range(pe.Highlight).Offset)
		}
		err := errors.New(pe.Message)
		if strings.Contains(pe.Message, "escape") {
			err = report.Hint(err, "%s", hintQuotes)
		}
		d.fault(from, max(1, len(pe.Highlight)), err)
	} else if err != nil {
		d.fault(len(d.text), 1, err)
	}
}

// close notes where the table e ends for now: with the last line that is not
// blank before next, the place of what follows.
func (d *document) close(e entry, next int) {
	if e.what != "" {
		d.tables[e.what][e.i].to = d.lineEnd(len(bytes.TrimRight(d.text[:next], " \t\r\n")))
	}
}

// table handles a header such as [agent.x] and [forward.allow].
func (d *document) table(from, to int, name []string) (at string, within map[string]kind, ok bool) {
	if len(name) == 1 && name[0] == "forward" {
		d.faultHint(from, to-from, errors.New("[forward] is one table, and there can be many forwards"), "write [[forward]]")
		return "", nil, false
	}
	within = schema["file"]
	for i, n := range name {
		k, known := within[n]
		if !known {
			k = within["*"]
		}
		if k.below == "" {
			d.unknown(from, to, name[i:], within)
			return "", nil, false
		}
		at += n + "."
		if k.list {
			if len(name) == 1 {
				d.faultHint(from, to-from, fmt.Errorf("[%s] is one table, and there can be many %[1]ss", n), "write [[%s]]", n)
				return "", nil, false
			}
			if len(d.tables[n]) == 0 {
				d.fault(from, to-from, fmt.Errorf("[%s] before the first [[%s]]", strings.Join(name, "."), n))
				return "", nil, false
			}
			at = key(n, len(d.tables[n])-1, "") + "."
		}
		within = schema[k.below]
	}
	d.at[strings.TrimSuffix(at, ".")] = span{from, to}
	return at, within, true
}

// keyValue notes a value, and those in it, and checks their types.
func (d *document) keyValue(p *unstable.Parser, e *unstable.Node, at string, within map[string]kind) {
	from, to := d.keySpan(e)
	name := d.keyText(e)
	for i, n := range name {
		k, known := within[n]
		if !known {
			k, known = within["*"]
		}
		if !known {
			d.unknown(from, to, name[i:], within)
			return
		}
		at += n
		if i < len(name)-1 {
			if k.below == "" || k.list {
				d.fault(from, to-from, fmt.Errorf("%s has no keys below it", n))
				return
			}
			at, within = at+".", schema[k.below]
			continue
		}
		d.value(p, e.Value(), at, k, span{from, to})
	}
}

// value notes a value; key is where its name is, for values whose own place the
// parser doesn't tell.
func (d *document) value(p *unstable.Parser, v *unstable.Node, at string, k kind, key span) {
	here := key
	if v.Raw.Length > 0 {
		here = span{int(v.Raw.Offset), int(v.Raw.Offset + v.Raw.Length)}
	}
	d.at[at] = here
	wrong := func(want string) {
		d.fault(here.from, here.to-here.from, fmt.Errorf("%s is %s", at[strings.LastIndexByte(at, '.')+1:], want))
	}
	switch {
	case k.list:
		if v.Kind != unstable.Array {
			wrong(`a list, such as ["a", "b"]`)
			return
		}
		i := 0
		for it := v.Children(); it.Next(); {
			if it.Node().Kind != unstable.Comment {
				d.value(p, it.Node(), at+"."+strconv.Itoa(i), kind{below: k.below}, here)
				i++
			}
		}
		if k.below == "" && i > MaxList || i > MaxForwards {
			wrong(fmt.Sprintf("a list of %d elements, too many", i))
		}
	case k.below != "":
		if v.Kind != unstable.InlineTable {
			wrong("a table of keys")
			return
		}
		for it := v.Children(); it.Next(); {
			if it.Node().Kind == unstable.KeyValue {
				d.keyValue(p, it.Node(), at+".", schema[k.below])
			}
		}
	case k.boolean:
		if v.Kind != unstable.Bool {
			wrong("true or false")
		}
	case v.Kind != unstable.String:
		wrong("a text in quotes")
	case len(v.Data) > MaxString:
		wrong(fmt.Sprintf("a text of %d bytes, at most %d", len(v.Data), MaxString))
	}
}

func (d *document) keyText(e *unstable.Node) (parts []string) {
	for it := e.Key(); it.Next(); {
		parts = append(parts, string(it.Node().Data))
	}
	return parts
}

func (d *document) keySpan(e *unstable.Node) (from, to int) {
	first := true
	for it := e.Key(); it.Next(); first = false {
		r := it.Node().Raw
		if first {
			from = int(r.Offset)
		}
		to = int(r.Offset + r.Length)
	}
	return from, to
}

func (d *document) lineStart(i int) int { return bytes.LastIndexByte(d.text[:i], '\n') + 1 }

// lineEnd is behind the line's end.
func (d *document) lineEnd(i int) int {
	n := bytes.IndexByte(d.text[i:], '\n')
	if n < 0 {
		return len(d.text)
	}
	return i + n + 1
}

// offset is the place of a 1-based row and column in bytes.
func (d *document) offset(row, col int) int {
	i := 0
	for ; row > 1 && i < len(d.text); row-- {
		i = d.lineEnd(i)
	}
	return min(i+max(col, 1)-1, len(d.text))
}

// hintQuotes is for names of Windows in quotes in which \t is a tab.
const hintQuotes = `in single quotes backslashes are what they are: 'C:\x.sock'`

// wrong notes a fault at a key, or at the nearest table above it.
func (d *document) wrong(key string, err error) {
	for k := key; ; {
		if s, ok := d.at[k]; ok {
			if text := d.text[s.from:s.to]; report.HintOf(err) == "" && bytes.HasPrefix(text, []byte(`"`)) && bytes.Contains(text, []byte(`\`)) {
				err = report.Hint(err, "%s", hintQuotes)
			}
			d.fault(s.from, s.to-s.from, err)
			return
		}
		i := strings.LastIndexByte(k, '.')
		if i < 0 {
			d.fault(0, 0, err)
			return
		}
		if k == key {
			// It isn't there: what is marked doesn't say what is meant.
			err = fmt.Errorf("%s: %w", k[i+1:], err)
		}
		k = k[:i]
	}
}

func (d *document) faultHint(from, length int, err error, hint string, args ...any) {
	d.fault(from, length, report.Hint(err, hint, args...))
}

func (d *document) fault(from, length int, err error) {
	if len(d.faults) == maxFaults {
		d.more++
		return
	}
	d.faults = append(d.faults, d.placed(from, length, err))
}

// error is all faults as one error, nil if there is none.
func (d *document) error() error {
	if len(d.faults) == 0 {
		return nil
	}
	var lines []string
	for _, f := range d.faults {
		lines = append(lines, f.Error())
	}
	if d.more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", d.more))
	}
	err := errors.New(strings.Join(lines, "\n"))
	for _, f := range d.faults {
		if hint := report.HintOf(f); hint != "" {
			return report.Hint(err, "%s", hint)
		}
	}
	return err
}

// maxShown is how many characters of a line are shown.
const maxShown = 120

// placed shows a fault with its line and a caret.
func (d *document) placed(from, length int, err error) error {
	from = min(max(from, 0), len(d.text))
	start := d.lineStart(from)
	end := start
	for end < len(d.text) && d.text[end] != '\n' {
		end++
	}
	row := 1 + bytes.Count(d.text[:start], []byte("\n"))
	before := []rune(printable(d.text[start:from]))
	col := 1 + len(before)
	rest := []rune(printable(bytes.TrimSuffix(d.text[min(from, end):end], []byte("\r"))))
	mark := utf8.RuneCount(d.text[from:min(from+max(length, 1), max(end, from))])
	mark = max(1, min(mark, len(rest)))
	cut := ""
	if len(before) > maxShown {
		before, cut = before[len(before)-maxShown/2:], "…"
	}
	shown := cut + string(before)
	margin := fmt.Sprintf("%5d | ", row)
	pad := strings.Repeat(" ", len(margin)-2) + "| " + strings.Repeat(" ", utf8.RuneCountInString(shown))
	if len(rest) > maxShown {
		rest = append(rest[:maxShown:maxShown], '…')
		mark = min(mark, maxShown)
	}
	return fmt.Errorf("%s:%d:%d: %w\n%s%s%s\n%s%s", d.path, row, col, err, margin, shown, string(rest), pad, strings.Repeat("^", mark))
}

// printable makes a line safe to show: a terminal acts on control characters, and
// a tab has no width of its own.
func printable(b []byte) string {
	return strings.Map(func(c rune) rune {
		if c == '\t' {
			return ' '
		}
		if !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, string(b))
}
