package afunix

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"drvsock/internal/errno"
)

// CheckWindowsPath returns path if a Windows program can mean the same file by
// it as the guest does. Win32 reads more into a path than the guest, whose
// names come straight from the file system: it drops dots and spaces at the end
// of a name, takes some names for devices whatever their folder, and a ':' for
// the beginning of a stream's name (learn.microsoft.com, "Naming Files, Paths,
// and Namespaces"). To go on would mean another file, so that is refused.
func CheckWindowsPath(path []byte) (string, error) {
	if !utf8.Valid(path) {
		return "", errno.Errorf(errno.EINVAL, errno.LayerAgent, "%q is not UTF-8, as names on Windows must be", path)
	}
	rest, ok := cutRoot(path)
	if !ok {
		return "", BadPath(path)
	}
	if len(rest) == 0 {
		return string(path), nil
	}
	for elem := range bytes.SplitSeq(rest, []byte{'\\'}) {
		if s := string(elem); s == "" || s == "." || s == ".." || bytes.ContainsFunc(elem, illegalRune) {
			return "", BadPath(path)
		} else if endsLoosely(elem) {
			return "", errno.Errorf(errno.EINVAL, errno.LayerAgent, "%q: Windows programs cannot reach a name that ends in a dot or a space", path)
		} else if isDevice(s) {
			return "", errno.Errorf(errno.EINVAL, errno.LayerAgent, "%q: Windows takes the name %q for a device", path, s)
		}
	}
	return string(path), nil
}

// cutRoot cuts C:\ or \\server\share\ off. It refuses the namespaces \\?\ and
// \\.\, whose names mean devices.
func cutRoot(path []byte) (rest []byte, ok bool) {
	if len(path) >= 3 && path[1] == ':' && path[2] == '\\' {
		c := path[0] | 0x20
		return path[3:], 'a' <= c && c <= 'z'
	}
	unc, ok := bytes.CutPrefix(path, []byte(`\\`))
	if !ok {
		return nil, false
	}
	server, after, _ := bytes.Cut(unc, []byte{'\\'})
	share, rest, ok := bytes.Cut(after, []byte{'\\'})
	for _, part := range [][]byte{server, share} {
		if len(part) == 0 || string(part) == "?" || bytes.ContainsFunc(part, illegalRune) || endsLoosely(part) {
			return nil, false
		}
	}
	return rest, ok
}

// endsLoosely reports whether Win32 would drop the end of a name.
func endsLoosely(name []byte) bool {
	last := name[len(name)-1]
	return last == '.' || last == ' '
}

// illegalRune reports what no name on Windows may hold. The link brings such
// characters in their private-use form.
func illegalRune(r rune) bool {
	return r < 0x20 || strings.ContainsRune(`"*/:<>?\|`, r)
}

// isDevice reports whether name, with or without an extension, is one that
// Win32 takes for a device in every folder.
func isDevice(name string) bool {
	stem, _, _ := strings.Cut(name, ".")
	stem = strings.ToUpper(strings.TrimRight(stem, " "))
	switch stem {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$":
		return true
	}
	for _, prefix := range []string{"COM", "LPT"} {
		if d, ok := strings.CutPrefix(stem, prefix); ok {
			switch d {
			case "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "\u00b9", "\u00b2", "\u00b3":
				return true
			}
		}
	}
	return false
}

// A FileKind is what lies at a path, by one look.
type FileKind uint8

// The kinds of file.
const (
	KindUnknown FileKind = iota // the look was refused
	KindMissing
	KindFolder
	KindSocket
	KindFile
)

// LookAt finds out why a call on path, a checked Windows path, may have been
// refused.
func LookAt(path string, kindOf func(path string) FileKind) errno.Look {
	switch kindOf(path) {
	case KindUnknown:
		return errno.LookUnknown
	case KindSocket:
		return errno.LookSocket
	case KindFile, KindFolder:
		return errno.LookOther
	}
	for first := true; ; first = false {
		i := strings.LastIndexByte(path, '\\')
		if i < 0 {
			return errno.LookNoFolder
		}
		path = path[:i]
		probe := path
		if len(probe) == 2 && probe[1] == ':' {
			probe += `\` // C: alone is the current folder of the drive
		}
		switch kindOf(probe) {
		case KindUnknown:
			return errno.LookUnknown
		case KindMissing:
			continue
		case KindFolder:
			if first {
				return errno.LookMissing
			}
			return errno.LookNoFolder
		default:
			return errno.LookNotFolder
		}
	}
}

// BadPath is the refusal of a path that isn't of the form that the link carries.
func BadPath(path []byte) error {
	return errno.Errorf(errno.EINVAL, errno.LayerAgent, "%q is no path on a drive of the host", path)
}
