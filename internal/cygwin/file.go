package cygwin

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"drvsock/internal/cygwin/portfile"
)

// cookie is how a socket's file begins (SOCKET_COOKIE of winsup/cygwin).
const cookie = "!<socket >"

// A File is what a Cygwin socket's file says.
type File struct {
	Port   uint16
	Secret portfile.Secret // in the order in which it is sent
}

// IsFile reports whether b begins as a Cygwin socket's file.
func IsFile(b []byte) bool { return bytes.HasPrefix(b, []byte(cookie)) }

// Parse reads a stream socket's file:
//
//	!<socket >PORT s XXXXXXXX-XXXXXXXX-XXXXXXXX-XXXXXXXX
//
// and a NUL, which programs that only play Cygwin leave away. The four words are
// the secret's, each in hexadecimal as a number of the machine, little-endian.
func Parse(b []byte) (File, error) {
	if !IsFile(b) {
		return File{}, errors.New("no Cygwin socket")
	}
	if len(b) > portfile.MaxFile {
		return File{}, fmt.Errorf("a Cygwin socket of %d bytes", len(b))
	}
	text, _, _ := bytes.Cut(b[len(cookie):], []byte{0})
	fields := bytes.Fields(text)
	if len(fields) != 3 {
		// Cygwin before 1.5.20, and MSYS 1, have no kind and another greeting.
		return File{}, fmt.Errorf("a Cygwin socket with %d fields in its file, want port, kind and secret", len(fields))
	}
	if kind := string(fields[1]); kind != "s" {
		return File{}, fmt.Errorf("a Cygwin socket of kind %.8q, want a stream socket (s)", kind)
	}
	port, err := strconv.ParseUint(string(fields[0]), 10, 16)
	if err != nil || port == 0 {
		return File{}, fmt.Errorf("a Cygwin socket with port %.8q", fields[0])
	}
	f := File{Port: uint16(port)}
	words := bytes.Split(fields[2], []byte("-"))
	if len(words) != 4 {
		return File{}, fmt.Errorf("a Cygwin socket with a secret of %d words, want 4", len(words))
	}
	for i, w := range words {
		n, err := strconv.ParseUint(string(w), 16, 32)
		if err != nil || len(w) > 8 {
			return File{}, fmt.Errorf("a Cygwin socket whose secret's word %d is %.12q", i+1, w)
		}
		binary.LittleEndian.PutUint32(f.Secret[4*i:], uint32(n))
	}
	return f, nil
}

// Bytes is the file as Cygwin writes it.
func (f File) Bytes() []byte {
	word := func(i int) uint32 { return binary.LittleEndian.Uint32(f.Secret[4*i:]) }
	return fmt.Appendf(nil, "%s%d s %08x-%08x-%08x-%08x\x00", cookie, f.Port, word(0), word(1), word(2), word(3))
}
