package drive

import "bytes"

// illegal reports whether NTFS cannot hold c in a name although a Linux name
// may have it. '/' is the separator and NUL the end of a name on Linux, so
// neither occurs; '\' is illegal since it separates on the host. Everything
// else, the trailing dots and spaces included, goes through as it is: DrvFS
// opens files by their NT path, where those are ordinary characters.
func illegal(c byte) bool {
	switch c {
	case '"', '*', ':', '<', '>', '?', '\\', '|':
		return true
	}
	return c >= 0x01 && c <= 0x1f
}

// EscapeName returns the host's form of one element of a guest path, as DrvFS
// makes it: each character that NTFS cannot hold (0x01-0x1F " * : < > ? \ |)
// becomes the private-use character U+F000+c in UTF-8, every other byte stays.
// It returns name itself if there is nothing to escape.
//
// Names that hold such a private-use character already are left as they are, so
// the guest reaches one host name by both spellings, as on DrvFS. A '/' in name
// is no business of this function and stays.
func EscapeName(name []byte) []byte {
	n := 0
	for _, c := range name {
		if illegal(c) {
			n++
		}
	}
	if n == 0 {
		return name
	}
	return appendEscaped(make([]byte, 0, len(name)+2*n), name)
}

func appendEscaped(dst, name []byte) []byte {
	for _, c := range name {
		if illegal(c) {
			dst = append(dst, 0xef, 0x80|c>>6, 0x80|c&0x3f)
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

// UnescapeName returns the guest's form of one element of a host path: U+F000+c
// becomes c for the characters that EscapeName maps and for no others, so
// U+F02F ('/') and U+F000 (NUL) stay as they are and cannot leave the element.
// It returns name itself if there is nothing to do.
func UnescapeName(name []byte) []byte {
	i := nextEscape(name)
	if i < 0 {
		return name
	}
	out := make([]byte, 0, len(name))
	for i >= 0 {
		out = append(out, name[:i]...)
		out = append(out, name[i+1]<<6|name[i+2]&0x3f)
		name = name[i+3:]
		i = nextEscape(name)
	}
	return append(out, name...)
}

// nextEscape returns where the first escaped character of name begins, or -1.
// U+F001 to U+F07F are EF 80 80 to EF 81 BF in UTF-8.
func nextEscape(name []byte) int {
	for from := 0; ; {
		i := bytes.IndexByte(name[from:], 0xef)
		if i < 0 || from+i+2 >= len(name) {
			return -1
		}
		i += from
		hi, lo := name[i+1], name[i+2]
		if hi|1 == 0x81 && lo&0xc0 == 0x80 && illegal(hi<<6|lo&0x3f) {
			return i
		}
		from = i + 1
	}
}

// JoinHost returns the host path of rel, a path of the guest's kind relative to
// base, with its names escaped. base is a host path such as C:\ or
// \\srv\share\dir; rel has its elements divided by '/', and empty ones are left
// out. "." and ".." are not understood: they would be taken for names.
func JoinHost(base, rel []byte) []byte {
	out := make([]byte, 0, len(base)+len(rel)+8)
	out = append(out, base...)
	for elem := range bytes.SplitSeq(rel, []byte{'/'}) {
		if len(elem) == 0 {
			continue
		}
		if len(out) > 0 && out[len(out)-1] != '\\' {
			out = append(out, '\\')
		}
		out = appendEscaped(out, elem)
	}
	return out
}

// SplitHost divides a host path on a drive letter, such as C:\dir\x.sock, into
// the letter in upper case and the guest's names of its elements. ok is false
// for any other form (UNC, relative, \\?\) and for elements that are empty, "."
// or "..", hold a '/' or a NUL, or contain an illegal character that the host
// could only understand as something else (a ':' begins a stream's name).
func SplitHost(path []byte) (letter byte, names [][]byte, ok bool) {
	if len(path) < 3 || path[1] != ':' || path[2] != '\\' {
		return 0, nil, false
	}
	letter, ok = driveLetter(path[0])
	if !ok {
		return 0, nil, false
	}
	rest := path[3:]
	if len(rest) == 0 {
		return letter, nil, true
	}
	for elem := range bytes.SplitSeq(rest, []byte{'\\'}) {
		if len(elem) == 0 || string(elem) == "." || string(elem) == ".." {
			return 0, nil, false
		}
		for _, c := range elem {
			if c == 0 || c == '/' || illegal(c) {
				return 0, nil, false
			}
		}
		names = append(names, UnescapeName(elem))
	}
	return letter, names, true
}

// driveLetter returns the upper-case form of c if c is an ASCII letter.
func driveLetter(c byte) (byte, bool) {
	if c >= 'a' && c <= 'z' {
		c -= 'a' - 'A'
	}
	return c, c >= 'A' && c <= 'Z'
}
