package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Fields are a one-byte tag, a two-byte length and the value. Tags ascend
// strictly, which rules duplicates out, and a field with the zero value is left
// out, so that each message has one form only.

var errTruncated = errors.New("field is cut short")

func appendUint(b []byte, tag uint8, size int, v uint64) []byte {
	if v == 0 {
		return b
	}
	b = append(b, tag, 0, byte(size))
	for i := size - 1; i >= 0; i-- {
		b = append(b, byte(v>>(8*i)))
	}
	return b
}

func appendFlag(b []byte, tag uint8, v bool) []byte {
	if !v {
		return b
	}
	return append(b, tag, 0, 1, 1)
}

func appendBytes[T []byte | string](b []byte, tag uint8, v T) []byte {
	if len(v) == 0 {
		return b
	}
	b = append(b, tag)
	b = binary.BigEndian.AppendUint16(b, uint16(len(v)))
	return append(b, v...)
}

// A fields walks the fields of a message.
type fields struct {
	rest []byte
	tag  uint8
	val  []byte
	err  error
}

// next moves to the next field; false at the end or on an error.
func (f *fields) next() bool {
	if f.err != nil || len(f.rest) == 0 {
		return false
	}
	if len(f.rest) < 3 {
		f.err = errTruncated
		return false
	}
	tag, n := f.rest[0], int(binary.BigEndian.Uint16(f.rest[1:]))
	if tag <= f.tag {
		f.err = fmt.Errorf("field %d after field %d", tag, f.tag)
		return false
	}
	if len(f.rest) < 3+n {
		f.err = errTruncated
		return false
	}
	f.tag, f.val, f.rest = tag, f.rest[3:3+n], f.rest[3+n:]
	return true
}

// uint reads the current field as a number of size bytes other than 0.
func (f *fields) uint(size int) uint64 {
	if len(f.val) != size {
		f.err = fmt.Errorf("field %d of %d bytes, want %d", f.tag, len(f.val), size)
		return 0
	}
	var v uint64
	for _, c := range f.val {
		v = v<<8 | uint64(c)
	}
	if v == 0 {
		f.err = fmt.Errorf("field %d is zero", f.tag)
	}
	return v
}

func (f *fields) flag() bool {
	v := f.uint(1)
	if f.err == nil && v != 1 {
		f.err = fmt.Errorf("field %d is %d, want 1", f.tag, v)
	}
	return f.err == nil
}

// bytes reads the current field as 1 to limit bytes, copied.
func (f *fields) bytes(limit int) []byte {
	if len(f.val) == 0 || len(f.val) > limit {
		f.err = fmt.Errorf("field %d of %d bytes, limits 1 to %d", f.tag, len(f.val), limit)
		return nil
	}
	return append([]byte(nil), f.val...)
}
