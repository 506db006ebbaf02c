package wire

import (
	"encoding/binary"
	"fmt"
)

// A Type is the type of a frame.
type Type uint8

// The types of frame. The comment says what the payload is.
const (
	TypeOpen   Type = 1  // Request
	TypeAccept Type = 2  // Answer
	TypeRefuse Type = 3  // Refusal
	TypeData   Type = 4  // 1 to MaxData bytes of the stream
	TypeEnd    Type = 5  // empty, or the Refusal that a reader sees after the last byte
	TypeStop   Type = 6  // Refusal
	TypeReset  Type = 7  // Refusal
	TypeWindow Type = 8  // u32 credit
	TypePing   Type = 9  // 8 bytes to send back
	TypePong   Type = 10 // the 8 bytes of a ping
	TypeGoaway Type = 11 // empty, or a Refusal
)

// limits of the payload and whether the frame belongs to a stream.
var frames = [...]struct {
	name     string
	min, max uint32
	stream   bool
}{
	TypeOpen:   {"OPEN", 0, MaxOpen, true},
	TypeAccept: {"ACCEPT", 0, MaxAnswer, true},
	TypeRefuse: {"REFUSE", 1, MaxReason, true},
	TypeData:   {"DATA", 1, MaxData, true},
	TypeEnd:    {"END", 0, MaxReason, true},
	TypeStop:   {"STOP", 1, MaxReason, true},
	TypeReset:  {"RESET", 1, MaxReason, true},
	TypeWindow: {"WINDOW", 4, 4, true},
	TypePing:   {"PING", 8, 8, false},
	TypePong:   {"PONG", 8, 8, false},
	TypeGoaway: {"GOAWAY", 0, MaxReason, false},
}

// String gives the name that docs/protocol.md uses.
func (t Type) String() string {
	if int(t) < len(frames) && frames[t].max > 0 {
		return frames[t].name
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// HeaderSize is the size of a frame's header in bytes.
const HeaderSize = 12

// A Header precedes the payload of each frame.
type Header struct {
	Type   Type
	Stream uint32 // 0 for a frame of the link itself
	Length uint32 // bytes of payload that follow
}

// Put writes the header into the first HeaderSize bytes of b.
func (h Header) Put(b []byte) {
	_ = b[HeaderSize-1]
	b[0] = byte(h.Type)
	b[1], b[2], b[3] = 0, 0, 0
	binary.BigEndian.PutUint32(b[4:], h.Stream)
	binary.BigEndian.PutUint32(b[8:], h.Length)
}

// Append appends the header to b.
func (h Header) Append(b []byte) []byte {
	var hdr [HeaderSize]byte
	h.Put(hdr[:])
	return append(b, hdr[:]...)
}

// ParseHeader reads a header from the first HeaderSize bytes of b and checks
// all that can be checked without the state of the link.
func ParseHeader(b []byte) (Header, error) {
	_ = b[HeaderSize-1]
	h := Header{
		Type:   Type(b[0]),
		Stream: binary.BigEndian.Uint32(b[4:]),
		Length: binary.BigEndian.Uint32(b[8:]),
	}
	if int(h.Type) >= len(frames) || frames[h.Type].max == 0 {
		return h, fmt.Errorf("frame of unknown type %d", b[0])
	}
	f := &frames[h.Type]
	switch {
	case b[1] != 0 || b[2] != 0 || b[3] != 0:
		return h, fmt.Errorf("%s frame with flags % x", f.name, b[1:4])
	case h.Length < f.min || h.Length > f.max:
		return h, fmt.Errorf("%s frame of %d bytes, limits %d to %d", f.name, h.Length, f.min, f.max)
	case f.stream != (h.Stream != 0):
		return h, fmt.Errorf("%s frame for stream %d", f.name, h.Stream)
	}
	return h, nil
}
