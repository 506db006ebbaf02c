package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"drvsock/internal/report"
)

// AddForward writes w at the end of the file at path, which is made if need be,
// and leaves the rest of the text as it is. w has a name that is not there yet.
// Two processes that do this at once don't lose each other's work, on Linux.
func AddForward(path string, w Forward) error {
	return edit(path, func(d *document, f *File) ([]byte, error) {
		if w.Name == "" || f.Forward(w.Name) != nil {
			return nil, report.Hint(fmt.Errorf("a forward named %s is in %s already", w.Name, path), "drvsock forward rm --save %s", w.Name)
		}
		if len(f.Forwards) >= MaxForwards {
			return nil, fmt.Errorf("%s holds %d forwards, and there can be no more", path, len(f.Forwards))
		}
		if w.Allow != nil && w.Allow.User == nil {
			w.Allow = &Allow{User: []string{}}
		}
		f.Forwards = append(f.Forwards, w)
		return d.with(w.table()), nil
	})
}

// with is the text with a table more.
func (d *document) with(table string) []byte {
	eol := d.eol()
	text := slices.Clone(d.text)
	if n := len(text); n > 0 {
		if text[n-1] != '\n' {
			text = append(text, eol...)
		}
		text = append(text, eol...)
	}
	return append(text, strings.ReplaceAll(table, "\n", eol)...)
}

// without is the text without table i of those of one kind, of which there are n.
func (d *document) without(what string, i, n int) ([]byte, error) {
	if i >= len(d.tables[what]) || len(d.tables[what]) != n {
		return nil, errForm
	}
	t := d.tables[what][i]
	eol := []byte(d.eol())
	before, after := d.text[:t.from], d.text[t.to:]
	if len(after) == 0 || bytes.HasPrefix(after, eol) {
		if blank, ok := bytes.CutSuffix(before, eol); ok && (len(blank) == 0 || bytes.HasSuffix(blank, eol)) {
			before = blank
		}
	}
	return append(slices.Clone(before), after...), nil
}

// RemoveForward removes the lines of the forward of that name from the file at
// path: its header, its values with what stands between them, and the blank line
// that AddForward put in front.
func RemoveForward(path, name string) error {
	return edit(path, func(d *document, f *File) ([]byte, error) {
		i := slices.IndexFunc(f.Forwards, func(w Forward) bool { return w.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("no forward named %s is in %s", name, path)
		}
		// Names that others got because of this one's must not change.
		for j := range f.Forwards {
			if _, written := d.at[key("forward", j, "name")]; !written && j > i && strings.HasPrefix(f.Forwards[j].Name, name+"-") {
				return nil, report.Hint(fmt.Errorf("the forward %s has its name because of %s", f.Forwards[j].Name, name), "give it a name in %s", path)
			}
		}
		text, err := d.without("forward", i, len(f.Forwards))
		f.Forwards = slices.Delete(f.Forwards, i, i+1)
		return text, err
	})
}

var errForm = errors.New("it is written in a form that only a person can edit")

func formError(path string) error { return fmt.Errorf("save the configuration: %s: %w", path, errForm) }

// edit changes the text of a file by change, which also changes f to what the
// new text must mean.
func edit(path string, change func(*document, *File) ([]byte, error)) error {
	// Write to what a link leads to, so that the link stays.
	target, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		if target, err = os.Readlink(path); err == nil {
			return fmt.Errorf("save the configuration: %s is a link to %s, which isn't there", path, target)
		}
		target, err = path, os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err != nil {
		return fmt.Errorf("save the configuration: %w", err)
	}
	unlock, err := lock(filepath.Dir(target))
	if err != nil {
		return fmt.Errorf("save the configuration: %w", err)
	}
	defer unlock()
	old, err := readFile(target)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("save the configuration: %w", err)
	}
	d, f, err := parse(path, old)
	if err != nil {
		return err
	}
	bom := bytes.HasPrefix(old, utf8BOM)
	text, err := change(d, f)
	if errors.Is(err, errForm) {
		return formError(path)
	}
	if err != nil {
		return err
	}
	// What was meant is compared with what was written: a file has forms that
	// lines can't be added to or taken from, such as forward = [ … ].
	if _, now, err := parse(path, text); err != nil || !same(now, f) {
		return formError(path)
	}
	if bom && bytes.HasPrefix(text, []byte("   ")) {
		text = append(slices.Clone(utf8BOM), text[3:]...)
	}
	if err := replace(target, text); err != nil {
		return fmt.Errorf("save the configuration: %w", err)
	}
	return nil
}

// same tells whether two files mean the same; of a list that is empty and one that
// isn't there, the types know a difference and the file doesn't.
func same(a, b *File) bool {
	x, xerr := json.Marshal(a)
	y, yerr := json.Marshal(b)
	return xerr == nil && yerr == nil && bytes.Equal(x, y)
}

// replace puts a new file in the place of the one at path, which has the mode and
// the owner of the old one, or 0600 and this user.
func replace(path string, text []byte) (err error) {
	mode := fs.FileMode(0o600)
	old, serr := os.Stat(path)
	if serr == nil {
		mode = old.Mode().Perm()
	}
	t, err := os.CreateTemp(filepath.Dir(path), ".config-*.toml") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(t.Name())
		}
	}()
	_, err = t.Write(text)
	if err == nil && old != nil {
		err = giveTo(t, old)
	}
	if err == nil && mode != 0o600 {
		err = t.Chmod(mode)
	}
	if err == nil {
		err = t.Sync()
	}
	if cerr := t.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(t.Name(), path)
	}
	return err
}

// eol is how the text ends its lines.
func (d *document) eol() string {
	if i := bytes.IndexByte(d.text, '\n'); i > 0 && d.text[i-1] == '\r' {
		return "\r\n"
	}
	return "\n"
}

// table writes w as a table of the file.
func (w Forward) table() string {
	var b strings.Builder
	b.WriteString("[[forward]]\n")
	text := func(key, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s = %s\n", key, quote(value))
		}
	}
	list := func(key string, values []string) {
		quoted := make([]string, len(values))
		for i, v := range values {
			quoted[i] = quote(v)
		}
		fmt.Fprintf(&b, "%s = [%s]\n", key, strings.Join(quoted, ", "))
	}
	text("name", w.Name)
	text("listen", w.Listen)
	text("connect", w.Connect)
	text("agent", w.Agent)
	text("mode", w.Mode)
	text("owner", w.Owner)
	text("group", w.Group)
	if len(w.Access) > 0 {
		list("access", w.Access)
	}
	if w.Message {
		b.WriteString("message = true\n")
	}
	if w.Allow != nil {
		list("allow.user", w.Allow.User)
	}
	text("filter", w.Filter)
	for _, name := range slices.Sorted(maps.Keys(w.Env)) {
		fmt.Fprintf(&b, "env.%s = %s\n", name, quote(w.Env[name]))
	}
	return b.String()
}

// quote writes a TOML string: as it is in single quotes if that can be, since
// Windows paths are full of backslashes.
func quote(s string) string {
	if plain(s) && !strings.ContainsAny(s, `'`) && strings.ContainsAny(s, `\"`) {
		return "'" + s + "'"
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
