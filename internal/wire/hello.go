package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Magic opens each direction of a link.
const Magic = "drvsock\n"

// HelloSize is the size in bytes of the fixed part of a hello.
const HelloSize = len(Magic) + 8

// ErrMagic says that what came first on the link is no hello.
var ErrMagic = errors.New("no drvsock hello")

const (
	helloFeatures = 1
	helloWindow   = 2
	helloBuild    = 3
	helloOS       = 4
	helloArch     = 5
)

// Append appends the hello to b. Strings that are too long are cut.
func (h *Hello) Append(b []byte) []byte {
	b = append(b, Magic...)
	b = binary.BigEndian.AppendUint16(b, h.Version)
	b = binary.BigEndian.AppendUint16(b, h.MinVersion)
	b = append(b, byte(h.Role), 0, 0, 0)
	start := len(b)
	b = appendUint(b, helloFeatures, 4, uint64(h.Features))
	b = appendUint(b, helloWindow, 4, uint64(h.Window))
	b = appendBytes(b, helloBuild, cut(h.Build, MaxBuild))
	b = appendBytes(b, helloOS, cut(h.OS, MaxSystem))
	b = appendBytes(b, helloArch, cut(h.Arch, MaxSystem))
	binary.BigEndian.PutUint16(b[start-2:], uint16(len(b)-start))
	return b
}

// HelloRest tells from the first HelloSize bytes how many bytes of fields
// follow. The error is ErrMagic or says which limit is broken.
func HelloRest(b []byte) (int, error) {
	_ = b[HelloSize-1]
	if string(b[:len(Magic)]) != Magic {
		return 0, ErrMagic
	}
	n := int(binary.BigEndian.Uint16(b[HelloSize-2:]))
	if n > MaxHello {
		return 0, fmt.Errorf("hello with %d bytes of fields, limit %d", n, MaxHello)
	}
	return n, nil
}

// ParseHello reads a whole hello, the fixed part and all its fields.
func ParseHello(b []byte) (Hello, error) {
	if len(b) < HelloSize {
		return Hello{}, fmt.Errorf("hello of %d bytes", len(b))
	}
	n, err := HelloRest(b)
	if err != nil {
		return Hello{}, err
	}
	if len(b) != HelloSize+n {
		return Hello{}, fmt.Errorf("hello of %d bytes, want %d", len(b), HelloSize+n)
	}
	fix := b[len(Magic):]
	h := Hello{
		Version:    binary.BigEndian.Uint16(fix),
		MinVersion: binary.BigEndian.Uint16(fix[2:]),
		Role:       Role(fix[4]),
	}
	switch {
	case h.MinVersion == 0 || h.Version < h.MinVersion:
		return h, fmt.Errorf("hello with versions %d to %d", h.MinVersion, h.Version)
	case h.Role != RoleGuest && h.Role != RoleAgent:
		return h, fmt.Errorf("hello with role %d", fix[4])
	case fix[5] != 0:
		return h, fmt.Errorf("hello with reserved byte %d", fix[5])
	}
	f := fields{rest: b[HelloSize:]}
	for f.next() {
		switch f.tag {
		case helloFeatures:
			h.Features = uint32(f.uint(4))
		case helloWindow:
			h.Window = uint32(f.uint(4))
		case helloBuild:
			h.Build = string(f.bytes(MaxBuild))
		case helloOS:
			h.OS = string(f.bytes(MaxSystem))
		case helloArch:
			h.Arch = string(f.bytes(MaxSystem))
		}
	}
	if f.err != nil {
		return h, fmt.Errorf("hello: %w", f.err)
	}
	if h.Window == 0 || h.Window > MaxWindow {
		return h, fmt.Errorf("hello with window %d, limits 1 to %d", h.Window, math.MaxInt32)
	}
	return h, nil
}

// Agree gives the version in force on a link between two sides that sent these
// hellos, or says why there is none.
func Agree(ours, theirs *Hello) (uint16, error) {
	v := min(ours.Version, theirs.Version)
	switch {
	case v < theirs.MinVersion:
		return 0, fmt.Errorf("protocol version %d of this side (build %q) is too old, the other side (build %q) wants at least %d",
			ours.Version, ours.Build, theirs.Build, theirs.MinVersion)
	case v < ours.MinVersion:
		return 0, fmt.Errorf("protocol version %d of the other side (build %q) is too old, this side (build %q) wants at least %d",
			theirs.Version, theirs.Build, ours.Build, ours.MinVersion)
	case ours.Role == theirs.Role:
		return 0, fmt.Errorf("both sides of the link are the %s", ours.Role)
	}
	return v, nil
}

// String names the role as it is shown to people.
func (r Role) String() string {
	switch r {
	case RoleGuest:
		return "guest"
	case RoleAgent:
		return "agent"
	}
	return fmt.Sprintf("role %d", uint8(r))
}
