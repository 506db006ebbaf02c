package hyperv

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"
)

// TestHandle wants handles where handleOf looks for them.
func TestHandle(t *testing.T) {
	for _, typ := range []reflect.Type{reflect.TypeFor[winio.HvsockListener](), reflect.TypeFor[winio.HvsockConn]()} {
		sock, ok := typ.FieldByName("sock")
		if !ok || sock.Type.Kind() != reflect.Pointer {
			t.Errorf("%v keeps its socket elsewhere", typ)
			continue
		}
		if h, ok := sock.Type.Elem().FieldByName("handle"); !ok || h.Type.Kind() != reflect.Uintptr {
			t.Errorf("%v keeps its handle elsewhere", sock.Type)
		}
	}
	type file struct{ handle windows.Handle }
	if h, err := handleOf(&struct{ sock *file }{&file{7}}); h != 7 || err != nil {
		t.Errorf("got %v, %v", h, err)
	}
	if err := keepAsleep(new(winio.HvsockConn)); err == nil {
		t.Error("nothing has a handle")
	}
}

func TestOwnCommandLine(t *testing.T) {
	line, err := commandLine(uint32(os.Getpid()))
	if errors.Is(err, windows.STATUS_INVALID_INFO_CLASS) {
		t.Skip("this is Wine before 9, which doesn't tell command lines")
	}
	if err != nil || !strings.Contains(line, os.Args[0]) || !strings.Contains(line, os.Args[len(os.Args)-1]) {
		t.Errorf("%q, %v, want %q", line, err, os.Args)
	}
}

// TestNoMachine is for a Windows on which no virtual machine runs.
func TestNoMachine(t *testing.T) {
	ids, err := helpers()
	if err != nil {
		t.Errorf("helpers: %v", err)
	}
	if len(ids) > 0 {
		t.Skipf("machines run here: %v", ids)
	}
	if ln, port, err := Listen(idA); err == nil {
		t.Errorf("it listens for a machine that isn't there: %v %s", ln.Addr(), port)
	}
	if _, err := Dial(t.Context(), "1073741824"); err == nil {
		t.Error("a host dials itself")
	}
}
