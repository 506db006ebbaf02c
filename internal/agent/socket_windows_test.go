package agent

import (
	"errors"
	"log/slog"
	"net"
	"testing"

	"golang.org/x/sys/windows"

	"drvsock/internal/afunix"
)

// A handle's end leaves the socket to the connect that is under way on it, which
// then closes it.
func TestCloseWhileConnecting(t *testing.T) {
	isOpen := func(h windows.Handle) bool {
		_, err := windows.GetsockoptInt(h, windows.SOL_SOCKET, 0x1008) // SO_TYPE
		return err == nil
	}
	raw, err := afunix.NewSocket()
	if err != nil {
		t.Fatal(err)
	}
	s := &unixSocket{host: &host{log: slog.New(slog.DiscardHandler)}, file: `C:\no\s.sock`, raw: raw, busy: true}
	s.close()
	if !isOpen(raw) {
		t.Error("closed under a connect")
	}
	if conn, err := s.connectRaw(t.Context(), raw, `C:\no\other.sock`); !errors.Is(err, net.ErrClosed) {
		t.Errorf("connect of a closed socket: %v, %v", conn, err)
	}
	if isOpen(raw) || s.raw != 0 || s.busy {
		t.Errorf("left open: %+v", s)
	}
}
