package drive

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// A Mode says what Translate makes of a path.
type Mode uint8

// The modes, and the flags of wslpath for them.
const (
	ToUnix    Mode = iota // -u, its default
	ToWindows             // -w
	ToMixed               // -m: as -w, with '/' for each '\'
)

// TranslateOptions are the surroundings of Translate.
type TranslateOptions struct {
	Mode     Mode
	Absolute bool    // -a: the answer is absolute even if the path wasn't
	Mounts   []Mount // of ParseMounts or Mounts.All
	Distro   string  // WSL_DISTRO_NAME; empty makes paths off the drives an error
	Dir      string  // working directory for relative paths; empty asks the system

	// Realpath resolves the symbolic links of a path for ToWindows and ToMixed.
	// Nil asks the system. An error that is os.ErrNotExist means that the path is
	// taken literally.
	Realpath func(string) (string, error)
	// Readlink reads the links in /run/wsl/virtiofs; nil means os.Readlink.
	Readlink func(string) (string, error)
}

// ErrInvalid says that a path has no translation. Its text is strerror's for
// EINVAL, which is what wslpath prints.
var ErrInvalid = errors.New("Invalid argument") //lint:ignore ST1005 strerror's text

// Translate turns a path of one system into the other's, with wslpath's answers:
// the error is the line to print after the name of the program ("PATH: reason").
// It differs from wslpath where that one errs: ".." is applied after empty and
// "." elements are gone, a path that ends up at the working directory is ".", a
// host path whose guest path is covered by another mount is an error, "#" and
// other mounts' odd names are read right, a 9p path may hold a comma, names in
// the root of a bind mount are escaped, and only characters that DrvFS escapes
// are unescaped.
func Translate(opts TranslateOptions, path string) (string, error) {
	if opts.Realpath == nil {
		opts.Realpath = realpath
	}
	if opts.Readlink == nil {
		opts.Readlink = os.Readlink
	}
	var out string
	var err error
	if opts.Mode == ToUnix {
		out, err = opts.toUnix(path)
	} else {
		out, err = opts.toWindows(path)
		if opts.Mode == ToMixed {
			out = flip(out, '/')
		}
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return out, nil
}

func invalid(why string, args ...any) error {
	return fmt.Errorf("%w (%s)", ErrInvalid, fmt.Sprintf(why, args...))
}

// reason gives the plain reason of a system's error, in strerror's manner.
func reason(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	text := err.Error()
	return plain{strings.ToUpper(text[:min(1, len(text))]) + text[min(1, len(text)):], err}
}

// plain is an error with another text.
type plain struct {
	text string
	error
}

func (p plain) Error() string { return p.text }
func (p plain) Unwrap() error { return p.error }

func (o *TranslateOptions) needDir() error {
	if o.Dir != "" {
		return nil
	}
	dir, err := workdir()
	if err != nil {
		return reason(err)
	}
	o.Dir = dir
	return nil
}

// toWindows translates a guest path.
func (o *TranslateOptions) toWindows(path string) (string, error) {
	real, err := o.Realpath(path)
	switch {
	case err == nil && strings.HasSuffix(path, "/") && !strings.HasSuffix(real, "/"):
		path = real + "/"
	case err == nil:
		path = real
	case !errors.Is(err, os.ErrNotExist):
		return "", reason(err)
	}
	relative := !strings.HasPrefix(path, "/")
	if relative {
		if err := o.needDir(); err != nil {
			return "", err
		}
		path = o.Dir + "/" + path
	}
	path, ok := collapse(path, '/')
	if !ok {
		return "", invalid("more .. than folders")
	}
	out, err := o.windowsOf(path)
	if err != nil || !relative || o.Absolute {
		return out, err
	}
	dir, err := o.windowsOf(o.Dir)
	if err != nil {
		return out, nil
	}
	return relativeTo(dir, out), nil
}

// windowsOf translates an absolute, collapsed guest path.
func (o *TranslateOptions) windowsOf(path string) (string, error) {
	clean := path
	if len(clean) > 1 {
		clean = strings.TrimSuffix(clean, "/")
	}
	if m, ok := cover(o.Mounts, clean); ok {
		if host, ok := m.HostPath(m.inMount(clean), o.Readlink); ok {
			if clean != path && host[len(host)-1] != '\\' {
				host = append(host, '\\')
			}
			return string(host), nil
		}
	}
	if o.Distro == "" {
		return "", invalid("on no drive, and WSL_DISTRO_NAME isn't set")
	}
	host := []byte(`\\wsl.localhost\` + o.Distro)
	for i := range len(path) {
		if path[i] == '/' {
			host = append(host, '\\')
		} else {
			host = appendEscaped(host, []byte{path[i]})
		}
	}
	return string(host), nil
}

// toUnix translates a host path.
func (o *TranslateOptions) toUnix(path string) (string, error) {
	path = flip(path, '\\')
	relative := !isAbsHost(path)
	var dir string
	if relative {
		if err := o.needDir(); err != nil {
			return "", err
		}
		var err error
		if dir, err = o.windowsOf(o.Dir); err != nil {
			return "", err
		}
		if !strings.HasPrefix(path, `\`) {
			path = dir + `\` + path
		} else if _, ok := driveLetter(dir[0]); ok {
			path = dir[:2] + path
		} else {
			return "", invalid("the working directory is on no drive")
		}
	}
	switch {
	case strings.HasPrefix(path, `\\?\`):
		path = path[4:]
	case strings.HasPrefix(path, `\\`):
	case len(path) < 3 || path[2] != '\\':
		return "", invalid("relative to the working directory of another drive")
	}
	// The first element is the drive or, behind the two separators, the server.
	// Neither can be left by "..".
	lead := ""
	if rest, ok := strings.CutPrefix(path, `\\`); ok {
		lead, path = `\\`, rest
	}
	path, ok := collapse(path, '\\')
	if !ok {
		return "", invalid("more .. than folders")
	}
	out, err := o.unixOf(lead + path)
	if err != nil || !relative || o.Absolute {
		return out, err
	}
	if rel := relativeTo(o.Dir, out); rel != out {
		return rel, nil
	}
	// The way to the host and back may give the working directory another name:
	// its escaped one, or another mount of the drive.
	if back, err := o.unixOf(dir); err == nil {
		return relativeTo(back, out), nil
	}
	return out, nil
}

// isAbsHost tells if wslpath takes a flipped host path for absolute.
func isAbsHost(path string) bool {
	if len(path) < 3 {
		return false
	}
	_, letter := driveLetter(path[0])
	return path[:2] == `\\` || letter && path[1] == ':'
}

// unixOf translates an absolute, collapsed host path.
func (o *TranslateOptions) unixOf(path string) (string, error) {
	best, hidden, found := "", "", 0
	for i := range o.Mounts {
		m := &o.Mounts[i]
		if _, in := below(plumbingDir, m.Point); in || !m.candidate() {
			continue
		}
		host, ok := m.HostPath(m.Root, o.Readlink)
		if !ok {
			continue
		}
		source := strings.TrimSuffix(string(host), `\`)
		rest, ok := cutHost(path, source)
		if !ok || len(source) < found {
			continue
		}
		out := strings.TrimSuffix(m.Point, "/") + flip(rest, '/')
		if out == "" {
			out = "/"
		}
		clean := out
		if len(clean) > 1 {
			clean = strings.TrimSuffix(clean, "/")
		}
		if top, ok := cover(o.Mounts, clean); !ok || top != *m {
			hidden = m.Point
			continue
		}
		best, found = out, len(source)
	}
	if best != "" {
		return best, nil
	}
	for _, share := range []string{`\\wsl.localhost\`, `\\wsl$\`} {
		if o.Distro == "" {
			break
		}
		if rest, ok := cutHost(path, share+o.Distro); ok {
			if rest == "" {
				return "/", nil
			}
			return string(UnescapeName([]byte(flip(rest, '/')))), nil
		}
	}
	switch {
	case hidden != "":
		return "", invalid("another mount hides it below %s", hidden)
	case o.Distro == "" && (foldPrefix(path, `\\wsl.localhost\`) || foldPrefix(path, `\\wsl$\`)):
		return "", invalid("WSL_DISTRO_NAME isn't set")
	}
	return "", invalid("no drive mounted that holds it")
}

// cutHost cuts prefix off path at the end of an element, regardless of the case
// of ASCII letters. The rest is empty or begins with a separator.
func cutHost(path, prefix string) (rest string, ok bool) {
	if !foldPrefix(path, prefix) {
		return "", false
	}
	rest = path[len(prefix):]
	return rest, rest == "" || rest[0] == '\\'
}

func foldPrefix(s, prefix string) bool {
	if len(s) < len(prefix) {
		return false
	}
	for i := range len(prefix) {
		if lower(s[i]) != lower(prefix[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// relativeTo takes dir off an absolute path below it. A dir that ends with a
// separator ("/", C:\) isn't taken off, as wslpath doesn't.
func relativeTo(dir, path string) string {
	rest, ok := strings.CutPrefix(path, dir)
	switch {
	case !ok:
		return path
	case rest == "":
		return "."
	case rest[0] != '/' && rest[0] != '\\':
		return path
	case len(rest) == 1:
		return "."
	}
	return rest[1:]
}

// collapse applies "." and ".." and drops empty elements. What lies before the
// first separator stays, and so does one separator at the end. ok is false if
// there are more ".." than elements to take back.
func collapse(path string, sep byte) (string, bool) {
	elems := strings.Split(path, string(sep))
	out := elems[:1]
	for _, elem := range elems[1:] {
		switch elem {
		case "", ".":
		case "..":
			if len(out) == 1 {
				return "", false
			}
			out = out[:len(out)-1]
		default:
			out = append(out, elem)
		}
	}
	joined := strings.Join(out, string(sep))
	if len(elems) > 1 && (len(out) == 1 && joined == "" || lastIsFolder(path, sep)) {
		joined += string(sep)
	}
	return joined, true
}

// lastIsFolder tells if a path ends in a way that only a folder can.
func lastIsFolder(path string, sep byte) bool {
	last := path[strings.LastIndexByte(path, sep)+1:]
	return last == "" || last == "." || last == ".."
}
