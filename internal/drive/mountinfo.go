package drive

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
)

// MaxMountinfo bounds what ParseMounts reads, in bytes. A namespace holds at
// most 100,000 mounts unless fs.mount-max was raised (proc(5)), and a usual line
// has 100 to 300 bytes.
const MaxMountinfo = 64 << 20

// A Mount is one line of /proc/PID/mountinfo (proc_pid_mountinfo(5)). Its texts
// are the kernel's bytes with the octal escapes taken out, except Super, where
// the file systems write what they like and 9p escapes nothing.
type Mount struct {
	ID     int    // unique among the mounts of all namespaces while the mount lives
	Parent int    // ID of the mount that this one lies on
	Major  uint32 // device of the super block; stat may report another one (btrfs)
	Minor  uint32
	Root   string // folder of the file system that is seen at Point
	Point  string // where it is seen, from the root of the process whose mountinfo it is
	FSType string
	Source string // may be empty
	Super  string // options of the super block
}

// ParseMounts reads a mountinfo file and returns its mounts in its order.
// Lines that aren't of the form are left out, as a line that can't be read says
// nothing about the others. The error is r's, or says that the file is larger
// than MaxMountinfo.
func ParseMounts(r io.Reader) ([]Mount, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxMountinfo+1))
	if err != nil {
		return nil, fmt.Errorf("read mountinfo: %w", err)
	}
	if len(text) > MaxMountinfo {
		return nil, fmt.Errorf("read mountinfo: more than %d bytes", MaxMountinfo)
	}
	return parseMounts(text), nil
}

func parseMounts(text []byte) []Mount {
	mounts := make([]Mount, 0, bytes.Count(text, []byte{'\n'})+1)
	for line := range bytes.SplitSeq(text, []byte{'\n'}) {
		if m, ok := parseMount(line); ok {
			mounts = append(mounts, m)
		}
	}
	return mounts
}

// parseMount takes exactly one blank between two fields, as the kernel writes
// them: mount(2) with an empty source leaves an empty field, which must not
// make the line unreadable, for the mount hides others all the same.
func parseMount(line []byte) (m Mount, ok bool) {
	var id, parent, device, root, point []byte
	for _, field := range []*[]byte{&id, &parent, &device, &root, &point} {
		if *field, line, ok = bytes.Cut(line, []byte{' '}); !ok {
			return Mount{}, false
		}
	}
	// The options of the mount follow, then optional fields up to a lone "-".
	for tag := []byte(nil); string(tag) != "-"; {
		if tag, line, ok = bytes.Cut(line, []byte{' '}); !ok {
			return Mount{}, false
		}
	}
	fstype, line, ok1 := bytes.Cut(line, []byte{' '})
	source, super, ok2 := bytes.Cut(line, []byte{' '})
	major, minor, ok3 := bytes.Cut(device, []byte{':'})
	if !ok1 || !ok2 || !ok3 || len(fstype) == 0 {
		return Mount{}, false
	}
	if m.ID, ok = parseNumber[int](id, 31); !ok {
		return Mount{}, false
	}
	if m.Parent, ok = parseNumber[int](parent, 31); !ok {
		return Mount{}, false
	}
	if m.Major, ok = parseNumber[uint32](major, 32); !ok {
		return Mount{}, false
	}
	if m.Minor, ok = parseNumber[uint32](minor, 32); !ok {
		return Mount{}, false
	}
	m.Root, m.Point = decodeOctal(root), decodeOctal(point)
	m.FSType, m.Source, m.Super = decodeOctal(fstype), decodeOctal(source), string(super)
	// Root isn't always a path (nsfs writes "net:[4026531840]"), Point always is.
	if m.Root == "" || m.Point == "" || m.Point[0] != '/' {
		return Mount{}, false
	}
	return m, true
}

func parseNumber[T int | uint32](b []byte, bits int) (T, bool) {
	n, err := strconv.ParseUint(string(b), 10, bits)
	return T(n), err == nil
}

// decodeOctal takes the escapes out that the kernel puts in for blank, tab,
// newline, backslash and, in newer versions, '#' (mangle in fs/proc_namespace.c).
func decodeOctal(b []byte) string {
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b)
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+3 < len(b) {
			if n, err := strconv.ParseUint(string(b[i+1:i+4]), 8, 8); err == nil {
				out = append(out, byte(n))
				i += 3
				continue
			}
		}
		out = append(out, b[i])
	}
	return string(out)
}
