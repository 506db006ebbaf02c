package errno

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestFromSystem(t *testing.T) {
	own := Errorf(ELOOP, LayerGuest, "round and round")
	nowhere := Errorf(ELOOP, LayerUnknown, "round and round")
	long := strings.Repeat("ä", maxText)
	tests := []struct {
		name string
		err  error
		want *Error
	}{
		{"nil", nil, nil},
		{"an Error is kept", own, own},
		{"an Error within", fmt.Errorf("connect: %w", own), own},
		{"an Error of no layer", fmt.Errorf("connect: %w", nowhere), &Error{Errno: ELOOP, Layer: LayerHost, Text: "round and round"}},
		{"a number", fmt.Errorf("connect: %w", EAGAIN), &Error{Errno: EAGAIN, Layer: LayerHost, Text: "connect: EAGAIN"}},
		{"zero is no number", fmt.Errorf("connect: %w", Errno(0)), &Error{Errno: EIO, Layer: LayerHost, Text: "connect: errno 0"}},
		{"context ended", context.Canceled, &Error{Errno: ECANCELED, Layer: LayerHost, Text: "context canceled"}},
		{"deadline", os.ErrDeadlineExceeded, &Error{Errno: ETIMEDOUT, Layer: LayerHost, Text: "i/o timeout"}},
		{"closed", fmt.Errorf("accept: %w", net.ErrClosed), &Error{Errno: ECONNABORTED, Layer: LayerHost, Text: "accept: use of closed network connection"}},
		{"not there", fs.ErrNotExist, &Error{Errno: ENOENT, Layer: LayerHost, Text: "file does not exist"}},
		{"not done here", errors.ErrUnsupported, &Error{Errno: EOPNOTSUPP, Layer: LayerHost, Text: "unsupported operation"}},
		{"anything else", io.ErrNoProgress, &Error{Errno: EIO, Layer: LayerHost, Text: "multiple Read calls return no data or error"}},
		{"Windows's full stop and lines", errors.New("Access is\r\ndenied.\r\n"), &Error{Errno: EIO, Layer: LayerHost, Text: "Access is denied"}},
		{"no UTF-8", errors.New("x\xff"), &Error{Errno: EIO, Layer: LayerHost, Text: "x\uFFFD"}},
		{"long", errors.New("x" + long), &Error{Errno: EIO, Layer: LayerHost, Text: "x" + long[:maxText-2]}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := FromSystem(tt.err, LayerHost)
			if got == nil || tt.want == nil {
				if got != tt.want {
					t.Fatalf("got %v, want %v", got, tt.want)
				}
				return
			}
			if *got != *tt.want {
				t.Errorf("got %+v, want %+v", *got, *tt.want)
			}
			if len(got.Text) > maxText || !utf8.ValidString(got.Text) {
				t.Errorf("text of %d bytes", len(got.Text))
			}
		})
	}
}

// The host's number goes through package net's and os's wrappers.
func TestFromSystemKeepsNumber(t *testing.T) {
	_, perr := os.Open("/does/not/exist")
	_, nerr := net.Dial("unix", "/does/not/exist")
	for _, err := range []error{perr, nerr} {
		got := FromSystem(err, LayerAgent)
		if got.Errno != ENOENT || got.System == 0 || got.Layer != LayerAgent || got.Text != strings.TrimRight(err.Error(), ".") {
			t.Errorf("%v became %+v", err, *got)
		}
	}
}

func TestWindowsTable(t *testing.T) {
	byNumber, byName := map[uint32]bool{}, map[string]bool{}
	last := uint32(0)
	for _, w := range windowsErrors {
		if byNumber[w.number] || byName[w.name] {
			t.Errorf("%d %s is there twice", w.number, w.name)
		}
		byNumber[w.number], byName[w.name] = true, true
		if w.number <= last {
			t.Errorf("%d %s is out of order", w.number, w.name)
		}
		last = w.number
		if _, ok := names[w.errno]; !ok {
			t.Errorf("%s becomes %d, which has no name", w.name, w.errno)
		}
		if winsock := strings.HasPrefix(w.name, "WSA"); winsock != (w.number >= 10000 && w.number < 12000) {
			t.Errorf("%s cannot be %d", w.name, w.number)
		}
		// Winsock's names are the Berkeley ones, so most say it themselves.
		if same, ok := strings.CutPrefix(w.name, "WSA"); ok && w.errno.String() != same {
			for e, n := range names {
				if n == same && !odd[w.name] {
					t.Errorf("%s becomes %v, not %v", w.name, w.errno, e)
				}
			}
		}
		if n, ok := FromWindows(w.number); !ok || n != w.errno {
			t.Errorf("FromWindows(%d): %v, %v, want %v", w.number, n, ok, w.errno)
		}
	}
	for _, unknown := range []uint32{0, 7, 9999, 10000, 1 << 29, 1<<32 - 1} {
		if n, ok := FromWindows(unknown); ok {
			t.Errorf("FromWindows(%d) is %v", unknown, n)
		}
	}
}

// odd are Winsock's numbers that don't become the errno of their name.
var odd = map[string]bool{
	"WSAESHUTDOWN": true, // Linux gives EPIPE for a write after shutdown
}

func TestRefine(t *testing.T) {
	tests := []struct {
		op   Op
		n    Errno
		look Look
		want Errno
	}{
		{OpBind, ENETDOWN, LookNoFolder, ENOENT},
		{OpBind, EINVAL, LookNotFolder, ENOTDIR},
		{OpBind, ENOENT, LookNotFolder, ENOTDIR},
		{OpBind, EOPNOTSUPP, LookSocket, EADDRINUSE},
		{OpBind, EACCES, LookOther, EADDRINUSE},
		{OpBind, EEXIST, LookSocket, EADDRINUSE},
		{OpBind, EACCES, LookMissing, EACCES},
		{OpBind, EACCES, LookNoFolder, EACCES},
		{OpBind, EOPNOTSUPP, LookMissing, EOPNOTSUPP},
		{OpBind, EADDRINUSE, LookMissing, EADDRINUSE},
		{OpBind, ENETDOWN, LookUnknown, ENETDOWN},
		{OpConnect, ECONNREFUSED, LookMissing, ENOENT},
		{OpConnect, ECONNREFUSED, LookSocket, ECONNREFUSED},
		{OpConnect, EINVAL, LookSocket, EINVAL},
		{OpConnect, ENOENT, LookSocket, ECONNREFUSED},
		{OpConnect, ENETDOWN, LookNoFolder, ENOENT},
		{OpConnect, EINVAL, LookOther, ECONNREFUSED},
		{OpConnect, ECONNREFUSED, LookNotFolder, ENOTDIR},
		{OpConnect, EACCES, LookSocket, EACCES},
		{OpConnect, EACCES, LookOther, EACCES},
		{OpConnect, EMFILE, LookMissing, EMFILE},
		{OpStat, ENOENT, LookNotFolder, ENOTDIR},
		{OpStat, EINVAL, LookMissing, ENOENT},
		{OpUnlink, ENOENT, LookNoFolder, ENOENT},
		{OpUnlink, ENOENT, LookNotFolder, ENOTDIR},
		{OpUnlink, EACCES, LookSocket, EACCES},
		{OpUnlink, EBUSY, LookOther, EBUSY},
	}
	for _, tt := range tests {
		if got := Refine(tt.op, tt.n, tt.look); got != tt.want {
			t.Errorf("Refine(%d, %v, %d) = %v, want %v", tt.op, tt.n, tt.look, got, tt.want)
		}
	}
}

// An Error that several callers share stays as it is.
func TestFromSystemCopies(t *testing.T) {
	shared := Errorf(EACCES, LayerUnknown, "wrong secret")
	if got := FromSystem(shared, LayerGuest); got.Error() != "guest: EACCES: wrong secret" {
		t.Errorf("got %q", got)
	}
	if got := shared.Error(); got != "EACCES: wrong secret" {
		t.Errorf("the shared one says %q", got)
	}
}
