package mount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"drvsock/internal/agent"
	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit bounds what must not hang.
const limit = 20 * time.Second

// near is a Host: an agent in this process.
type near struct {
	t *testing.T

	mu     sync.Mutex
	l      *link.Link
	routes map[uint32]func(*link.Incoming)
	ended  chan struct{}
}

func newNear(t *testing.T, dir string) *near {
	t.Helper()
	h := &near{t: t}
	h.connect(dir)
	t.Cleanup(h.lose)
	return h
}

// connect makes a link.
func (h *near) connect(dir string) {
	h.t.Helper()
	a, b := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = agent.Serve(b, agent.Config{Drives: map[byte]string{'C': dir}})
	}()
	routes := map[uint32]func(*link.Incoming){}
	l, err := link.New(a, link.Config{Role: wire.RoleGuest, Handler: func(in *link.Incoming) {
		h.mu.Lock()
		fn := routes[in.Request.From]
		h.mu.Unlock()
		if fn == nil {
			in.Refuse(errno.ECONNREFUSED)
			return
		}
		fn(in)
	}})
	if err != nil {
		h.t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.l, h.routes, h.ended = l, routes, ended
}

// lose ends the link.
func (h *near) lose() {
	h.mu.Lock()
	l, ended := h.l, h.ended
	h.mu.Unlock()
	_ = l.Close()
	<-ended
}

func (h *near) Open(ctx context.Context, req wire.Request) (*link.Stream, wire.Answer, error) {
	h.mu.Lock()
	l := h.l
	h.mu.Unlock()
	return l.Open(ctx, req)
}

func (h *near) Route(s *link.Stream, fn func(*link.Incoming)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.routes[s.ID()] = fn
}

// mounted makes a folder and a view of it.
func mounted(t *testing.T, change func(*view)) (beneath, at string, h *near, m *Mounted) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip(err)
	}
	beneath, at = t.TempDir(), t.TempDir()
	h = newNear(t, beneath)
	testHook = change
	defer func() { testHook = nil }()
	m, err := Mount(at, Options{Host: h, HostPath: []byte(`C:\`), Beneath: beneath, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		select {
		case <-m.Done():
		case <-time.After(limit):
			t.Error("the view is still served")
		}
	})
	return beneath, at, h, m
}

// answers tells if the server at path sends its byte.
func answers(path string) error {
	c, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(limit))
	_, err = c.Read(make([]byte, 1))
	return err
}

// listen serves a byte to everyone.
func listen(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("x"))
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not in %v", what, limit)
		}
	}
}

// TestBothWays has servers on both sides and everyone connect to them.
func TestBothWays(t *testing.T) {
	beneath, at, _, _ := mounted(t, nil)
	listen(t, beneath+"/h")
	listen(t, at+"/n")
	until(t, "the host reaches the guest", func() bool { return answers(beneath+"/n") == nil })
	for range 20 {
		for _, p := range []string{at + "/h", at + "/n", beneath + "/n"} {
			if err := answers(p); err != nil {
				t.Errorf("%s: %v", filepath.Base(p), err)
			}
		}
	}
}

// TestByDescriptor connects to a socket that was opened and never looked up for a
// connect, as programs do whose path is longer than a socket's name may be.
func TestByDescriptor(t *testing.T) {
	beneath, at, _, _ := mounted(t, nil)
	long := filepath.Join(strings.Repeat("long", 30), "h")
	if err := os.Mkdir(filepath.Dir(filepath.Join(beneath, long)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(filepath.Join(beneath, long)), beneath+"/short"); err != nil {
		t.Fatal(err)
	}
	l := listen(t, beneath+"/short/h")
	open := map[string]func(string) (int, error){
		"open": func(p string) (int, error) { return unix.Open(p, unix.O_PATH|unix.O_CLOEXEC, 0) },
		"openat2": func(p string) (int, error) {
			return unix.Openat2(unix.AT_FDCWD, p, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC})
		},
	}
	for name, open := range open {
		fd, err := open(filepath.Join(at, long))
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		for range 2 {
			if err := answers(procFD(fd)); err != nil {
				t.Errorf("by %s: %v", name, err)
			}
		}
	}
	l.Close()
	fd, err := open["open"](filepath.Join(at, long))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := answers(procFD(fd)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a server that is gone: %v, want ECONNRESET", err)
	}
}

// TestUnknownCall is how it goes where /proc doesn't tell what a task does.
func TestUnknownCall(t *testing.T) {
	unknown.Store(true)
	defer unknown.Store(false)
	beneath, at, _, _ := mounted(t, nil)
	l := listen(t, beneath+"/h")
	n := listen(t, at+"/n")
	for range 5 {
		if err := answers(at + "/h"); err != nil {
			t.Errorf("host's server: %v", err)
		}
	}
	until(t, "the host reaches the guest", func() bool { return answers(beneath+"/n") == nil })
	n.Close()
	until(t, "the host is refused", func() bool { return errors.Is(answers(beneath+"/n"), unix.ECONNREFUSED) })
	l.Close()
	for range 5 {
		if err := answers(at + "/h"); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("a server that is gone: %v, want ECONNRESET", err)
		}
	}
	if err := os.Remove(beneath + "/h"); err != nil {
		t.Fatal(err)
	}
	listen(t, beneath+"/h")
	if err := answers(at + "/h"); err != nil {
		t.Errorf("host's next server: %v", err)
	}
}

// TestRestore loses the link.
func TestRestore(t *testing.T) {
	beneath, at, h, m := mounted(t, nil)
	listen(t, beneath+"/h")
	l := listen(t, at+"/n")
	until(t, "the host reaches the guest", func() bool { return answers(beneath+"/n") == nil })
	h.lose()
	if err := answers(at + "/h"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connect without a link: %v", err)
	}
	if fd, err := net.Listen("unix", at+"/other"); err == nil {
		fd.Close()
		t.Error("bind works without a link")
	}
	h.connect(beneath)
	m.LinkUp()
	until(t, "the host reaches the guest again", func() bool { return answers(beneath+"/n") == nil })
	for _, p := range []string{at + "/h", at + "/n"} {
		if err := answers(p); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
	l.Close()
	until(t, "the host is refused", func() bool { return errors.Is(answers(beneath+"/n"), unix.ECONNREFUSED) })
}

// TestRestoreRenamed loses the link of a socket that was renamed, and of one in a
// folder that was.
func TestRestoreRenamed(t *testing.T) {
	beneath, at, h, m := mounted(t, nil)
	if err := os.Mkdir(at+"/d", 0o755); err != nil {
		t.Fatal(err)
	}
	listen(t, at+"/n")
	listen(t, at+"/d/n")
	if err := errors.Join(os.Rename(at+"/n", at+"/d/renamed"), os.Rename(beneath+"/d", beneath+"/e")); err != nil {
		t.Fatal(err)
	}
	h.lose()
	h.connect(beneath)
	m.LinkUp()
	for _, name := range []string{"/e/renamed", "/e/n"} {
		until(t, "the host reaches "+name, func() bool { return answers(beneath+name) == nil })
		if err := answers(at + name); err != nil {
			t.Errorf("%s in the view: %v", name, err)
		}
	}
	for _, name := range []string{"/n", "/d"} {
		if _, err := os.Lstat(beneath + name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is there: %v", name, err)
		}
	}
}

// TestRestoreAttributes loses the link of sockets whose files were given another
// mode or owner, with the maker's ids for new files and without.
func TestRestoreAttributes(t *testing.T) {
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprintf("own %v", own), func(t *testing.T) {
			beneath, at, h, m := mounted(t, func(v *view) { v.opts.Own = own })
			change := map[string]func(string) error{
				"plain":  func(string) error { return nil },
				"opened": func(p string) error { return os.Chmod(p, 0o777) },
				"closed": func(p string) error { return unix.Chmod(p, 0o1600) },
				"given":  func(p string) error { return errors.Join(os.Chown(p, 59001, 59002), os.Chmod(p, 0o750)) },
			}
			show := func(dir, name string) string {
				var st unix.Stat_t
				err := unix.Stat(filepath.Join(dir, name), &st)
				return fmt.Sprintf("%o %d:%d %v", st.Mode, st.Uid, st.Gid, err)
			}
			want := map[string]string{}
			for name, fn := range change {
				listen(t, filepath.Join(at, name))
				if err := fn(filepath.Join(at, name)); err != nil {
					t.Fatal(err)
				}
				want[name] = show(beneath, name)
			}
			h.lose()
			h.connect(beneath)
			m.LinkUp()
			for name := range change {
				until(t, "the host reaches "+name, func() bool { return answers(filepath.Join(beneath, name)) == nil })
				for _, dir := range []string{beneath, at} {
					if got := show(dir, name); got != want[name] {
						t.Errorf("%s in %s: %s, want %s", name, dir, got, want[name])
					}
				}
			}
		})
	}
}

// TestShownAsFile is a folder beneath that shows the host's sockets as files, as
// DrvFS does.
func TestShownAsFile(t *testing.T) {
	_, at, h, _ := mounted(t, func(v *view) { v.asks = true })
	for _, name := range []string{"empty", "full"} {
		if err := os.WriteFile(at+"/"+name, []byte(map[string]string{"full": "x"}[name]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_ = h
	for _, name := range []string{"empty", "full"} {
		if st, err := os.Lstat(at + "/" + name); err != nil || !st.Mode().IsRegular() {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
}

// TestKeptCache has the host change a file that the guest reads over and over, with
// the bytes that the kernel keeps of it: in the same length, at once and after a
// while.
func TestKeptCache(t *testing.T) {
	beneath, at, _, _ := mounted(t, func(v *view) { v.copies = true })
	write := func(i int, age time.Duration) string {
		text := fmt.Sprintf("content %06d", i)
		when := time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(beneath+"/f", []byte(text), 0o644), os.Chtimes(beneath+"/f", when, when)); err != nil {
			t.Fatal(err)
		}
		return text
	}
	for i := range 300 {
		want := write(i, time.Duration(i%3)*time.Hour)
		for range 3 {
			if got, err := os.ReadFile(at + "/f"); err != nil || string(got) != want {
				t.Fatalf("round %d: %q, %v, want %q", i, got, err, want)
			}
		}
	}
	// By the guest itself, in the same way.
	for i := range 100 {
		want := fmt.Sprintf("written %06d", i)
		if err := os.WriteFile(at+"/f", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{at, beneath} {
			if got, err := os.ReadFile(p + "/f"); err != nil || string(got) != want {
				t.Fatalf("round %d: %q, %v, want %q", i, got, err, want)
			}
		}
	}
}

// TestNothingLeft uses what a view has and counts descriptors.
func TestNothingLeft(t *testing.T) {
	count := func() int {
		l, _ := os.ReadDir("/proc/self/fd")
		return len(l)
	}
	before := count()
	t.Run("use", func(t *testing.T) {
		beneath, at, _, _ := mounted(t, nil)
		listen(t, beneath+"/h")
		listen(t, at+"/n")
		if err := answers(at + "/h"); err != nil {
			t.Error(err)
		}
		for i := range 50 {
			if err := os.WriteFile(fmt.Sprintf("%s/%d", at, i), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if l, err := os.ReadDir(at); err != nil || len(l) != 52 {
			t.Errorf("%d entries, %v", len(l), err)
		}
	})
	until(t, "descriptors are closed", func() bool { return count() <= before })
}
