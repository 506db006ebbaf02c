package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"drvsock/internal/report"
)

// A Mount is a folder over which a view is laid, in which sockets are the host's.
// As written, Dir may hold ~ and variables; see Resolve.
type Mount struct {
	Dir        string `toml:"dir" json:"dir"`
	Agent      string `toml:"agent,omitempty" json:"agent,omitempty"`             // "" is the default one
	Own        bool   `toml:"own,omitempty" json:"own,omitempty"`                 // new sockets' files are their makers'
	AllowOther bool   `toml:"allow_other,omitempty" json:"allow_other,omitempty"` // for other accounts too
	ListenLate bool   `toml:"listen_late,omitempty" json:"listen_late,omitempty"` // host programs only once the program listens
}

// Resolve checks m and returns it with Dir in full, absolute and clean. Whether
// the folder is there is the mount's business. The error is a *FieldError.
func (m Mount) Resolve() (Mount, error) {
	switch {
	case m.Dir == "":
		return m, field("dir", "no folder is given")
	case !utf8.ValidString(m.Dir):
		return m, field("dir", "%q is no UTF-8", m.Dir)
	}
	dir, err := expand(m.Dir)
	if err != nil {
		return m, &FieldError{"dir", err}
	}
	switch {
	case !filepath.IsAbs(dir):
		return m, &FieldError{"dir", report.Hint(fmt.Errorf("%q is no absolute path", dir), "begin it with / or ~/")}
	case !plain(dir):
		return m, field("dir", "%q is no path of one line", dir)
	case m.Agent != "" && CheckName(m.Agent) != nil:
		return m, &FieldError{"agent", CheckName(m.Agent)}
	}
	m.Dir = filepath.Clean(dir)
	return m, nil
}

// Mount returns the mount over dir, an absolute path, nil if there is none.
func (f *File) Mount(dir string) *Mount {
	i := slices.IndexFunc(f.Mounts, func(m Mount) bool { return m.at(dir) })
	if i < 0 {
		return nil
	}
	return &f.Mounts[i]
}

func (m Mount) at(dir string) bool {
	r, err := m.Resolve()
	return err == nil && r.Dir == filepath.Clean(dir)
}

// resolveMounts checks each mount.
func (d *document) resolveMounts(f *File) {
	taken := make(map[string]bool)
	for i, m := range f.Mounts {
		r, err := m.Resolve()
		var fe *FieldError
		switch {
		case errors.As(err, &fe):
			d.wrong(key("mount", i, fe.Field), fe.Err)
		case taken[r.Dir]:
			d.wrong(key("mount", i, "dir"), fmt.Errorf("another mount is over %s too", r.Dir))
		}
		taken[r.Dir] = true
		if _, ok := f.Agents[m.Agent]; m.Agent != "" && !ok {
			d.wrong(key("mount", i, "agent"), report.Hint(fmt.Errorf("no agent %q", m.Agent), "add a table [agent.%s] with its link", m.Agent))
		}
	}
}

// AddMount is AddForward for a mount, over whose folder there is none yet.
func AddMount(path string, m Mount) error {
	return edit(path, func(d *document, f *File) ([]byte, error) {
		r, err := m.Resolve()
		if err != nil {
			return nil, err
		}
		if f.Mount(r.Dir) != nil {
			return nil, report.Hint(fmt.Errorf("a mount over %s is in %s already", r.Dir, path), "drvsock umount --save %s", r.Dir)
		}
		f.Mounts = append(f.Mounts, m)
		return d.with(m.table()), nil
	})
}

// RemoveMount is RemoveForward for the mount over dir, an absolute path.
func RemoveMount(path, dir string) error {
	return edit(path, func(d *document, f *File) ([]byte, error) {
		i := slices.IndexFunc(f.Mounts, func(m Mount) bool { return m.at(dir) })
		if i < 0 {
			return nil, fmt.Errorf("no mount over %s is in %s", dir, path)
		}
		text, err := d.without("mount", i, len(f.Mounts))
		f.Mounts = slices.Delete(f.Mounts, i, i+1)
		return text, err
	})
}

// table writes m as a table of the file.
func (m Mount) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "[[mount]]\ndir = %s\n", quote(m.Dir))
	if m.Agent != "" {
		fmt.Fprintf(&b, "agent = %s\n", quote(m.Agent))
	}
	for _, f := range []struct {
		key string
		on  bool
	}{{"own", m.Own}, {"allow_other", m.AllowOther}, {"listen_late", m.ListenLate}} {
		if f.on {
			b.WriteString(f.key + " = true\n")
		}
	}
	return b.String()
}
