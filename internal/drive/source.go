package drive

import "strings"

const (
	// deletedRoot ends the Root of a bind mount whose folder was deleted
	// (dentry_path in fs/d_path.c).
	deletedRoot = "//deleted"
	// tagDir holds a link for each virtiofs tag, to the host path it stands for
	// (WSL 2.7.1 and 2.8.5 on).
	tagDir = "/run/wsl/virtiofs/"
	// plumbingDir is where WSL keeps the virtiofs devices themselves; what people
	// see are binds of their folders (WSL after 2.9.4).
	plumbingDir = "/run/wsl/virtiofs-mounts"
)

// candidate reports whether the mount's type is one that drives come in. It is
// the cheap question asked for each call of a program.
func (m *Mount) candidate() bool {
	switch m.FSType {
	case "9p", "virtiofs", "drvfs":
		return true
	}
	return false
}

// HostPath returns the host path of path, a path inside m's file system (not
// below its mount point), if m is a drive mount of WSL. The forms known are
//
//   - 9p over any transport: the super option aname=drvfs;path=C:\;...
//   - virtiofs with a GUID for its tag, or with the tag drvfs or drvfsa (a for
//     elevated) and such a GUID as the first folder: the link of that name in
//     /run/wsl/virtiofs tells the host path
//   - virtiofs with a tag such as drvfsC1, drvfsaC3 (WSL before 2.7)
//   - drvfs (WSL 1): the source
//
// readlink reads the links; os.Readlink is the one for real ones.
func (m *Mount) HostPath(path string, readlink func(string) (string, error)) ([]byte, bool) {
	base, rest, ok := m.base(path, readlink)
	if !ok || strings.HasSuffix(m.Root, deletedRoot) {
		return nil, false
	}
	return JoinHost([]byte(base), []byte(rest)), true
}

// base returns the host path of a folder of m's file system that path lies in,
// and the rest of path below it.
func (m *Mount) base(path string, readlink func(string) (string, error)) (base, rest string, ok bool) {
	switch m.FSType {
	case "9p":
		base, ok = plan9Source(m.Super)
	case "drvfs":
		base, ok = cleanSource(m.Source)
	case "virtiofs":
		tag := m.Source
		if tag == "drvfs" || tag == "drvfsa" {
			tag, path, _ = strings.Cut(strings.TrimPrefix(path, "/"), "/")
		}
		base, ok = tagSource(tag, readlink)
	}
	return base, path, ok
}

// plan9Source finds path= in the aname=drvfs option. The parts of aname are
// divided by ';'. The options are divided by ',', but a path may hold one, so
// only a path= that no ';' ends is taken to end at a ','.
func plan9Source(super string) (string, bool) {
	const aname = "aname=drvfs"
	if !strings.HasPrefix(super, aname) {
		i := strings.Index(super, ","+aname)
		if i < 0 {
			return "", false
		}
		super = super[i+1:]
	}
	_, rest, _ := strings.Cut(super, ";")
	for rest != "" {
		var part string
		var ended bool
		part, rest, ended = strings.Cut(rest, ";")
		value, ok := strings.CutPrefix(part, "path=")
		if !ok {
			continue
		}
		if !ended {
			value, _, _ = strings.Cut(value, ",")
		}
		if share, ok := strings.CutPrefix(value, `UNC\`); ok {
			value = `\\` + share
		}
		return cleanSource(value)
	}
	return "", false
}

func tagSource(tag string, readlink func(string) (string, error)) (string, bool) {
	if isGUID(tag) {
		// The check keeps the name inside tagDir as well.
		target, err := readlink(tagDir + tag)
		if err != nil {
			return "", false
		}
		return cleanSource(target)
	}
	tag, ok := strings.CutPrefix(tag, "drvfs")
	if !ok {
		return "", false
	}
	tag = strings.TrimPrefix(tag, "a")
	if tag == "" || tag[0] < 'A' || tag[0] > 'Z' || strings.Trim(tag[1:], "0123456789") != "" {
		return "", false
	}
	return tag[:1] + `:\`, true
}

// isGUID tells if s is a GUID with or without braces, the forms that WSL takes.
func isGUID(s string) bool {
	if len(s) == 38 && s[0] == '{' && s[37] == '}' {
		s = s[1:37]
	}
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
				return false
			}
		}
	}
	return true
}

// cleanSource brings the source of a drive mount into the form C:\, C:\dir or
// \\srv\share. ok is false for anything that is neither.
func cleanSource(s string) (string, bool) {
	s = flip(s, '\\')
	for len(s) > 3 && s[len(s)-1] == '\\' {
		s = s[:len(s)-1]
	}
	if strings.HasPrefix(s, `\\`) {
		return s, len(s) > 2
	}
	if len(s) < 2 || s[1] != ':' {
		return "", false
	}
	if _, ok := driveLetter(s[0]); !ok {
		return "", false
	}
	if len(s) == 2 {
		return s + `\`, true
	}
	return s, s[2] == '\\'
}

// flip turns the separators of both systems into sep and runs of them into one,
// except for two at the beginning, which are a UNC path's.
func flip(s string, sep byte) string {
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		c := s[i]
		if c == '/' || c == '\\' {
			if len(out) > 1 && out[len(out)-1] == sep {
				continue
			}
			c = sep
		}
		out = append(out, c)
	}
	return string(out)
}
