// Package errno holds the error numbers that cross the link.
//
// The guest's programs see Linux numbers, so the wire speaks Linux numbers on
// every system; what the host itself said travels beside them, for people.
package errno

import (
	"errors"
	"fmt"
	"strings"
)

// An Errno is a Linux error number, with the generic numbering that amd64 and
// arm64 share (include/uapi/asm-generic/errno.h).
type Errno uint16

// The numbers that drvsock hands to programs. Most a local socket gives too;
// the network's ones only a Windows host can bring up.
const (
	EPERM           Errno = 1
	ENOENT          Errno = 2
	EINTR           Errno = 4
	EIO             Errno = 5
	ENXIO           Errno = 6
	EBADF           Errno = 9
	EAGAIN          Errno = 11
	ENOMEM          Errno = 12
	EACCES          Errno = 13
	EFAULT          Errno = 14
	EBUSY           Errno = 16
	EEXIST          Errno = 17
	EXDEV           Errno = 18
	ENODEV          Errno = 19
	ENOTDIR         Errno = 20
	EISDIR          Errno = 21
	EINVAL          Errno = 22
	ENFILE          Errno = 23
	EMFILE          Errno = 24
	ENOSPC          Errno = 28
	EROFS           Errno = 30
	EPIPE           Errno = 32
	ENAMETOOLONG    Errno = 36
	ENOSYS          Errno = 38
	ENOTEMPTY       Errno = 39
	ELOOP           Errno = 40
	EPROTO          Errno = 71
	EILSEQ          Errno = 84
	ENOTSOCK        Errno = 88
	EDESTADDRREQ    Errno = 89
	EMSGSIZE        Errno = 90
	EPROTOTYPE      Errno = 91
	ENOPROTOOPT     Errno = 92
	EPROTONOSUPPORT Errno = 93
	ESOCKTNOSUPPORT Errno = 94
	EOPNOTSUPP      Errno = 95
	EPFNOSUPPORT    Errno = 96
	EAFNOSUPPORT    Errno = 97
	EADDRINUSE      Errno = 98
	EADDRNOTAVAIL   Errno = 99
	ENETDOWN        Errno = 100
	ENETUNREACH     Errno = 101
	ENETRESET       Errno = 102
	ECONNABORTED    Errno = 103
	ECONNRESET      Errno = 104
	ENOBUFS         Errno = 105
	EISCONN         Errno = 106
	ENOTCONN        Errno = 107
	ESHUTDOWN       Errno = 108
	ETIMEDOUT       Errno = 110
	ECONNREFUSED    Errno = 111
	EHOSTDOWN       Errno = 112
	EHOSTUNREACH    Errno = 113
	EALREADY        Errno = 114
	EINPROGRESS     Errno = 115
	ESTALE          Errno = 116
	EDQUOT          Errno = 122
	ECANCELED       Errno = 125
)

// A Layer says which part of the way refused.
type Layer uint8

// The layers, from the program to the host's system.
const (
	LayerUnknown Layer = iota
	LayerGuest         // permission or path on the guest
	LayerLink          // the link itself: lost, timed out, full
	LayerAgent         // the agent, before it asked its system
	LayerHost          // the host's system
)

// String names the layer as it is shown to people.
func (l Layer) String() string {
	switch l {
	case LayerGuest:
		return "guest"
	case LayerLink:
		return "link"
	case LayerAgent:
		return "agent"
	case LayerHost:
		return "host"
	}
	return "unknown"
}

// An Error is a refusal with its reason. The zero Errno never occurs in one.
type Error struct {
	Errno  Errno
	Layer  Layer
	System uint32 // the host's own number, 0 if it gave none
	Text   string // a short sentence without a final full stop, the host's own words where it has any
}

// Errorf returns an Error with a sentence formed as by fmt.Sprintf.
func Errorf(e Errno, l Layer, format string, args ...any) *Error {
	return &Error{Errno: e, Layer: l, Text: fmt.Sprintf(format, args...)}
}

// Error says layer, if known, symbolic number, the system's number and the
// sentence, in one line: the sentence may be another system's, whose further lines
// would look like ours.
func (e *Error) Error() string {
	s := e.Errno.String()
	if e.Layer != LayerUnknown {
		s = e.Layer.String() + ": " + s
	}
	if e.System != 0 {
		s += fmt.Sprintf(" (system error %d)", e.System)
	}
	if e.Text != "" {
		s += ": " + oneLine.Replace(e.Text)
	}
	return s
}

var oneLine = strings.NewReplacer("\r\n", " ", "\n", " ", "\r", " ")

// Is makes errors.Is(err, errno.EACCES) work.
func (e *Error) Is(target error) bool {
	n, ok := target.(Errno)
	return ok && n == e.Errno
}

// Of returns the number to hand to a program for err: the one err carries, or
// EIO for an error that carries none, or 0 for nil.
func Of(err error) Errno {
	if err == nil {
		return 0
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Errno
	}
	var n Errno
	if errors.As(err, &n) {
		return n
	}
	return EIO
}
