package forward

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drvsock/internal/config"
	"drvsock/internal/socket"
)

// TestLost: a guest listener whose file somebody removes is made anew. Connections
// that it brought go on.
func TestLost(t *testing.T) {
	for name, c := range map[string]struct{ listen, file string }{
		"socket": {"/sub/x.sock", "sub/x.sock"}, "assuan": {"/sub/a", "sub/a"}, "cygwin": {"/sub/c", "sub/c"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.set.watchEvery = 20 * time.Millisecond
			serve(t, filepath.Join(r.drive, "s"), echo)
			listen, file := r.guest+c.listen, filepath.Join(r.guest, c.file)
			if name != "socket" {
				listen = name + ":" + listen
			}
			r.add(t, config.Forward{Name: "x", Listen: listen, Connect: `C:\s`})
			var n config.Resolved
			n, err := config.Forward{Listen: listen, Connect: "/x"}.Resolve()
			check(t, err)
			open, err := socket.Dial(t.Context(), n.From)
			check(t, err)
			defer open.Close()
			say(t, open, "before")
			time.Sleep(5 * r.set.watchEvery) // as long as it is there, nothing is done
			if s := r.status(t, "x"); s.LastError != nil {
				t.Fatalf("%+v", s.LastError)
			}
			for _, gone := range []string{file, filepath.Dir(file)} {
				check(t, os.RemoveAll(gone))
				awaitFile(t, file)
				s := r.await(t, "x", func(s Status) bool { return s.State == Listening && s.LastError != nil })
				if e := s.LastError; e.Layer != "guest" || e.Errno != "ENOENT" || !strings.Contains(e.Text, "somebody has removed "+file) {
					t.Errorf("%+v", e)
				}
				again, err := socket.Dial(t.Context(), n.From)
				check(t, err)
				say(t, again, "after")
				_ = again.Close()
			}
			say(t, open, "still")
		})
	}
}

// TestOusted: what another program puts there stays, and the status says who it is.
func TestOusted(t *testing.T) {
	r := newRig(t)
	r.set.watchEvery = 20 * time.Millisecond
	serve(t, filepath.Join(r.drive, "s"), shout)
	file := filepath.Join(r.guest, "x")
	r.add(t, config.Forward{Name: "x", Listen: file, Connect: `C:\s`})
	var other net.Listener
	for range 100 { // the forward may be faster
		err := os.Remove(file)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			if other, err = net.Listen("unix", file); err == nil {
				break
			}
		}
	}
	if other == nil {
		t.Fatal("the forward was always faster")
	}
	s := r.await(t, "x", func(s Status) bool { return s.State == Failed && s.LastError.Errno == "EADDRINUSE" })
	if !strings.Contains(s.LastError.Text, "listens there") {
		t.Errorf("%+v", s.LastError)
	}
	c := dial(t, file)
	_ = c.Close()
	if c, err := other.Accept(); err != nil {
		t.Error(err)
	} else {
		_ = c.Close()
	}
	check(t, other.Close()) // which removes it
	r.await(t, "x", func(s Status) bool { return s.State == Listening })
	if got := ask(t, file, "back"); got != "BACK" {
		t.Errorf("%q", got)
	}
}

func awaitFile(t *testing.T, path string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		_, err := os.Lstat(path)
		if err == nil {
			return
		}
		if !errors.Is(err, fs.ErrNotExist) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}
