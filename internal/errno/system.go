package errno

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"unicode/utf8"
)

// maxText bounds the sentence of an Error in bytes, as the link does.
const maxText = 1024

// FromSystem makes an Error of layer from what a system call or the standard
// library returned. The number is translated by the table of docs/errors.md
// and kept in System; the sentence is err's own, which on every system ends in
// the system's own words. An *Error within err is returned as it is, but for one
// without a layer, which was made by code that works on either side: that one gets
// layer. FromSystem returns nil for nil, and EIO for what carries no number.
func FromSystem(err error, layer Layer) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		if e.Layer == LayerUnknown {
			placed := *e
			placed.Layer = layer
			return &placed
		}
		return e
	}
	out := &Error{Errno: EIO, Layer: layer, Text: sentence(err)}
	var own Errno
	if errors.As(err, &own) && own != 0 {
		out.Errno = own
		return out
	}
	var sys syscall.Errno
	if errors.As(err, &sys) && sys != 0 {
		out.Errno, out.System = fromSyscall(sys)
		return out
	}
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			out.Errno = s.number
			break
		}
	}
	return out
}

// sentinels are the errors of the standard library that carry no number.
var sentinels = []struct {
	err    error
	number Errno
}{
	{context.Canceled, ECANCELED},
	{context.DeadlineExceeded, ETIMEDOUT},
	{os.ErrDeadlineExceeded, ETIMEDOUT},
	{net.ErrClosed, ECONNABORTED},
	{fs.ErrClosed, ECONNABORTED},
	{fs.ErrNotExist, ENOENT},
	{fs.ErrExist, EEXIST},
	{fs.ErrPermission, EACCES},
	{fs.ErrInvalid, EINVAL},
	{errors.ErrUnsupported, EOPNOTSUPP},
}

// sentence is err's text as an Error carries it: one line, no full stop at the
// end (Windows sets one), at most maxText bytes of valid UTF-8.
func sentence(err error) string {
	s := strings.Join(strings.Fields(strings.ToValidUTF8(err.Error(), "\uFFFD")), " ")
	s = strings.TrimRight(s, ".")
	if len(s) <= maxText {
		return s
	}
	s = s[:maxText]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s
}
