package hyperv

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestListenAll has one listener for two machines, and one that may not listen
// for a third.
func TestListenAll(t *testing.T) {
	dir := t.TempDir()
	a, b, c := id(t, idA), id(t, idB), id(t, "1"+idA[1:])
	path := func(id ID) string { return filepath.Join(dir, id.String()) }
	denied := errors.New("denied")
	machines := map[ID]net.Listener{}
	local := func(id ID, _ uint32) (net.Listener, error) {
		if id == c {
			return nil, denied
		}
		ln, err := net.Listen("unix", path(id))
		machines[id] = ln
		return ln, err
	}
	if _, err := listenAll([]ID{c}, 1, local); !errors.Is(err, denied) {
		t.Errorf("nothing to listen for: %v", err)
	}
	ln, err := listenAll([]ID{a, c, b}, 1, local)
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []ID{b, a, b} {
		out, err := net.Dial("unix", path(to))
		if err != nil {
			t.Fatal(err)
		}
		in, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(out, "x")
		_ = out.Close()
		if b, err := io.ReadAll(in); err != nil || string(b) != "x" {
			t.Errorf("got %q, %v", b, err)
		}
		_ = in.Close()
	}
	// One machine ends: the other is still served.
	_ = machines[b].Close()
	other, err := net.Dial("unix", path(a))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if in, err := ln.Accept(); err != nil {
		t.Errorf("after another machine's end: %v", err)
	} else {
		_ = in.Close()
	}
	// One that nobody takes is closed with the listener.
	out, err := net.Dial("unix", path(a))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	_ = ln.Close()
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	if _, err := out.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives the listener")
	}
	if _, err := net.Dial("unix", path(b)); err == nil {
		t.Error("somebody still listens")
	}
	// All machines end.
	if ln, err = listenAll([]ID{a, b}, 1, local); err != nil {
		t.Fatal(err)
	}
	_ = machines[a].Close()
	_ = machines[b].Close()
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after the end of all machines: %v", err)
	}
	_ = ln.Close()
}

// flaky is a listener whose first connections have left before they are taken.
type flaky struct {
	net.Listener
	left int
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.left > 0 {
		f.left--
		return nil, errors.New("it has left")
	}
	return f.Listener.Accept()
}

// TestListenAllFlaky wants a connection that comes to nothing to cost no listener.
func TestListenAllFlaky(t *testing.T) {
	dir := t.TempDir()
	a, b := id(t, idA), id(t, idB)
	ln, err := listenAll([]ID{a, b}, 1, func(id ID, _ uint32) (net.Listener, error) {
		ln, err := net.Listen("unix", filepath.Join(dir, id.String()))
		return &flaky{ln, maxUntaken - 1}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, to := range []ID{a, b} {
		out, err := net.Dial("unix", filepath.Join(dir, to.String()))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		in, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = in.Close()
	}
}
