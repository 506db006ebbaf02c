package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"drvsock/internal/report"
)

// Load reads the file at path. Each forward gets a name. A file that isn't there
// is an empty one. The error shows what is wrong where: each problem takes a line
// that begins with file, line and column, the text of that line, and a caret.
func Load(path string) (*File, error) {
	text, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return new(File), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	return Parse(path, text)
}

// readFile reads no more than a byte beyond MaxSize.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.IsDir() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("is a folder")}
	}
	return io.ReadAll(io.LimitReader(f, MaxSize+1))
}

// utf8BOM is what some Windows editors put in front of a text.
var utf8BOM = []byte("\xef\xbb\xbf")

// Parse is Load of a text; path is for messages.
func Parse(path string, text []byte) (*File, error) {
	d, f, err := parse(path, text)
	if err != nil {
		return nil, err
	}
	d.resolve(f)
	if err := d.error(); err != nil {
		return nil, err
	}
	return f, nil
}

// parse reads a text without looking anything up.
func parse(path string, text []byte) (*document, *File, error) {
	if len(text) > MaxSize {
		return nil, nil, fmt.Errorf("%s: more than %d bytes", path, MaxSize)
	}
	if blank, ok := bytes.CutPrefix(text, utf8BOM); ok {
		text = append([]byte("   "), blank...)
	}
	d := &document{path: path, text: text, at: make(map[string]span), tables: make(map[string][]table)}
	d.index()
	if err := d.error(); err != nil {
		return nil, nil, err
	}
	f := new(File)
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(f); err != nil {
		d.decodeError(err)
		return nil, nil, d.error()
	}
	d.names(f)
	if err := d.error(); err != nil {
		return nil, nil, err
	}
	return d, f, nil
}

// decodeError notes what the decoder says. It sees to the little that index
// doesn't: keys that come twice, and a table's that is something else too.
func (d *document) decodeError(err error) {
	var de *toml.DecodeError
	var missing *toml.StrictMissingError
	switch {
	case errors.As(err, &missing):
		for i := range missing.Errors {
			e := &missing.Errors[i]
			row, col := e.Position()
			d.fault(d.offset(row, col), 1, fmt.Errorf("unknown key %s", strings.Join(e.Key(), ".")))
		}
	case errors.As(err, &de):
		row, col := de.Position()
		d.fault(d.offset(row, col), 1, errors.New(strings.TrimPrefix(de.Error(), "toml: ")))
	default:
		d.fault(0, 1, errors.New(strings.TrimPrefix(err.Error(), "toml: ")))
	}
}

// names checks the names that are given and gives others to the rest.
func (d *document) names(f *File) {
	taken := make(map[string]bool)
	for i, w := range f.Forwards {
		if w.Name == "" {
			continue
		}
		if taken[w.Name] {
			d.wrong(key("forward", i, "name"), fmt.Errorf("another forward is named %s too", w.Name))
		}
		taken[w.Name] = true
	}
	for i := range f.Forwards {
		if w := &f.Forwards[i]; w.Name == "" {
			if n, err := readEndpoint(w.Listen); err == nil {
				w.Name = DefaultName(n, func(s string) bool { return taken[s] })
				taken[w.Name] = true
			}
		}
	}
	for name := range f.Agents {
		if err := CheckName(name); err != nil {
			d.wrong("agent."+name, err)
		}
	}
}

// resolve checks each forward as the engine will.
func (d *document) resolve(f *File) {
	var fine []Resolved
	for i, w := range f.Forwards {
		r, err := w.Resolve()
		switch j := slices.IndexFunc(fine, r.Listens); {
		case err == nil && j >= 0:
			d.wrong(key("forward", i, "listen"), fmt.Errorf("forward %s listens there too", fine[j].Name))
		case err == nil:
			fine = append(fine, r)
		default:
			var fe *FieldError
			if errors.As(err, &fe) {
				d.wrong(key("forward", i, fe.Field), fe.Err)
			} else {
				d.wrong(key("forward", i, ""), err)
			}
		}
		if _, ok := f.Agents[w.Agent]; w.Agent != "" && !ok {
			d.wrong(key("forward", i, "agent"), report.Hint(fmt.Errorf("no agent %q", w.Agent), "add a table [agent.%s] with its link", w.Agent))
		}
	}
	d.resolveMounts(f)
	for _, prefix := range append([]string{""}, agentKeys(f)...) {
		a := f.Agent
		if prefix != "" {
			a = f.Agents[strings.TrimSuffix(strings.TrimPrefix(prefix, "agent."), ".")]
		}
		d.agent(prefix, a)
	}
}

func agentKeys(f *File) []string {
	var keys []string
	for name := range f.Agents {
		keys = append(keys, "agent."+name+".")
	}
	slices.Sort(keys)
	return keys
}
