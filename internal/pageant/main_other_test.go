//go:build !windows

package pageant

import (
	"errors"
	"testing"

	"drvsock/internal/errno"
)

func TestMain(m *testing.M) { verify(m) }

func TestElsewhere(t *testing.T) {
	if conn, err := Dial(t.Context()); !errors.Is(err, errno.EAFNOSUPPORT) {
		t.Errorf("%v, %v", conn, err)
	}
	if l, err := Listen(nil); !errors.Is(err, errno.EAFNOSUPPORT) {
		t.Errorf("%v, %v", l, err)
	}
}
