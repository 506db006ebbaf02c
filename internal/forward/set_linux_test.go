package forward

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/config"
	"drvsock/internal/errno"
)

// echo answers each read at once.
func echo(c *net.UnixConn) {
	_, _ = io.Copy(c, c)
}

// say writes and reads back, on a connection that stays.
func say(t testing.TB, c net.Conn, text string) {
	t.Helper()
	b := make([]byte, len(text))
	_, err := io.WriteString(c, text)
	check(t, err)
	_, err = io.ReadFull(c, b)
	check(t, err)
	if string(b) != text {
		t.Fatalf("%q came back for %q", b, text)
	}
}

// TestLinkLost: connections end, listeners on the host come back, and those on
// the guest stay.
func TestLinkLost(t *testing.T) {
	r := newRig(t)
	serve(t, filepath.Join(r.drive, "s"), echo)
	serve(t, filepath.Join(r.guest, "s"), echo)
	gh := config.Forward{Name: "gh", Listen: r.guest + "/gh", Connect: `C:\s`}
	hg := config.Forward{Name: "hg", Listen: `C:\hg`, Connect: r.guest + "/s"}
	r.add(t, gh)
	r.add(t, hg)
	if !r.set.NeedsLink() {
		t.Error("a host listener needs no link")
	}
	for range 3 {
		c1, c2 := dial(t, r.guest+"/gh"), dial(t, r.drive+"/hg")
		say(t, c1, "one")
		say(t, c2, "two")
		r.down()
		for i, c := range []net.Conn{c1, c2} {
			if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
				t.Errorf("connection %d brings %d bytes after the link is lost", i, n)
			} else if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("connection %d hangs", i)
			}
			_ = c.Close()
		}
		s := r.await(t, "hg", func(s Status) bool { return s.State == Waiting && s.Active == 0 })
		if s.LastError == nil || s.LastError.Layer != "link" {
			t.Errorf("last error is %+v, want one of the link", s.LastError)
		}
		// No link: a guest's client is told at once.
		began := time.Now()
		c := dial(t, r.guest+"/gh")
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("%d bytes, %v without a link", n, err)
		}
		_ = c.Close()
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("it took %v", d)
		}
		r.up(t)
		r.set.LinkUp()
		r.await(t, "hg", func(s Status) bool { return s.State == Listening })
	}
	if got := ask(t, r.guest+"/gh", "x"); got != "x" {
		t.Errorf("got %q", got)
	}
	if got := ask(t, r.drive+"/hg", "x"); got != "x" {
		t.Errorf("got %q", got)
	}
}

// TestAborts: what a client has written and nobody took, is not taken for done.
func TestAborts(t *testing.T) {
	r := newRig(t)
	r.add(t, config.Forward{Name: "x", Listen: r.guest + "/x", Connect: `C:\nobody`})
	for range 20 {
		c := dial(t, r.guest+"/x")
		_, werr := c.Write([]byte("hello"))
		_, err := c.Read(make([]byte, 1))
		_ = c.Close()
		if err == nil || err == io.EOF && werr == nil {
			t.Fatalf("a client that wrote reads %v, wants ECONNRESET", err)
		}
	}
	s := r.await(t, "x", func(s Status) bool { return s.Failed == 20 })
	if s.LastError == nil || s.LastError.Errno != "ENOENT" || s.LastError.Layer != "host" {
		t.Errorf("last error is %+v, want the host's ENOENT", s.LastError)
	}
}

// TestRefusals of another user, by mode and by rule.
func TestRefusals(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be another user")
	}
	const other = 44001
	r := newRig(t)
	serve(t, filepath.Join(r.drive, "s"), shout)
	serve(t, filepath.Join(r.guest, "s"), shout)
	add := func(name, mode string, users ...string) string {
		f := config.Forward{Name: name, Listen: r.guest + "/" + name, Connect: `C:\s`, Mode: mode}
		if users != nil {
			f.Allow = &config.Allow{User: users}
		}
		r.add(t, f)
		return f.Listen
	}
	for _, c := range []struct {
		name, mode string
		users      []string
		want       string
	}{
		{"default", "", nil, "permission denied"},
		{"group", "0660", nil, "permission denied"},
		{"open", "0666", nil, "HELLO"},
		{"rule", "0666", []string{"44001"}, "HELLO"},
		{"names", "0666", []string{"nobody", "root", "44001"}, "HELLO"},
		{"others", "0666", []string{"root", "44002", "nosuchuser"}, "error: "},
		{"none", "0666", []string{}, "error: "},
	} {
		path := add(c.name, c.mode, c.users...)
		if got := clientAs(t, other, path); !strings.Contains(got, c.want) {
			t.Errorf("%s: client of user %d got %q, want %q", c.name, other, got, c.want)
		}
	}
	s := r.await(t, "others", func(s Status) bool { return s.Refused == 1 })
	if e := s.LastError; e == nil || e.Layer != "guest" || e.Errno != "EACCES" || !strings.Contains(e.Text, "uid 44001") {
		t.Errorf("last error is %+v", e)
	}
	if s.Total != 0 {
		t.Errorf("%d connections of a refused user", s.Total)
	}
	if got := ask(t, r.guest+"/others", "hello"); got != "HELLO" {
		t.Errorf("root, who is allowed, got %q", got)
	}
	for _, want := range []string{"refused", "uid=44001", "forward=others", "program=forward.test"} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("log has no %s", want)
		}
	}
	// The host's callers are known by account, and none is here.
	r.add(t, config.Forward{Name: "hg", Listen: `C:\hg`, Connect: r.guest + "/s", Allow: &config.Allow{User: []string{"nosuch"}}})
	c := dial(t, r.drive+"/hg")
	if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("%d bytes, %v for a host's caller who is not allowed", n, err)
	}
	_ = c.Close()
	r.await(t, "hg", func(s Status) bool { return s.Refused == 1 })
}

func TestOwnership(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give sockets away")
	}
	r := newRig(t)
	path := r.guest + "/new/folder/x"
	r.add(t, config.Forward{Name: "x", Listen: path, Connect: `C:\s`, Mode: "0620", Owner: "44001", Group: "44002"})
	var st unix.Stat_t
	check(t, unix.Stat(path, &st))
	if st.Uid != 44001 || st.Gid != 44002 || st.Mode&0o777 != 0o620 {
		t.Errorf("socket has %d:%d %o", st.Uid, st.Gid, st.Mode)
	}
	if fi, err := os.Stat(r.guest + "/new"); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v, %v", fi, err)
	}
	check(t, r.set.Remove("x"))
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after its removal: %v", err)
	}
	// In a folder of another user, that user could put a socket of his own.
	dir := r.guest + "/his"
	check(t, os.Mkdir(dir, 0o755))
	check(t, os.Chown(dir, 44001, 44001))
	if err := r.set.Add(config.Forward{Name: "y", Listen: dir + "/y", Connect: `C:\s`}); !errors.Is(err, errno.EACCES) {
		t.Errorf("in another user's folder: %v", err)
	}
	check(t, r.set.Add(config.Forward{Name: "y", Listen: dir + "/y", Connect: `C:\s`, Owner: "44001"}))
}

// TestStatus: who calls, and how much was carried, while a connection is open.
func TestStatus(t *testing.T) {
	r := newRig(t)
	serve(t, filepath.Join(r.drive, "s"), echo)
	serve(t, filepath.Join(r.guest, "s"), echo)
	r.add(t, config.Forward{Name: "gh", Listen: r.guest + "/gh", Connect: `C:\s`})
	r.add(t, config.Forward{Name: "hg", Listen: `C:\hg`, Connect: r.guest + "/s"})
	r.add(t, config.Forward{Name: "gg", Listen: r.guest + "/gg", Connect: r.guest + "/s"})
	for name, path := range map[string]string{"gh": r.guest + "/gh", "hg": r.drive + "/hg", "gg": r.guest + "/gg"} {
		c := dial(t, path)
		say(t, c, "12345")
		s := r.await(t, name, func(s Status) bool { return s.In == 5 && s.Out == 5 })
		if s.Active != 1 || s.Total != 1 || len(s.Callers) != 1 {
			t.Fatalf("%s: status is %+v", name, s)
		}
		who := s.Callers[0]
		if who.PID != uint32(os.Getpid()) || who.Program != "forward.test" || time.Since(who.Since) > time.Minute {
			t.Errorf("%s: caller is %+v", name, who)
		}
		if name != "hg" && (who.Side != "guest" || who.UID == nil || *who.UID != uint32(os.Geteuid()) || who.GID == nil || who.User == "") {
			t.Errorf("%s: caller is %+v", name, who)
		}
		if name == "hg" && (who.Side != "host" || who.UID != nil) {
			t.Errorf("%s: caller is %+v", name, who)
		}
		_ = c.Close()
		s = r.await(t, name, func(s Status) bool { return s.Active == 0 })
		if s.In != 5 || s.Out != 5 || len(s.Callers) != 0 {
			t.Errorf("%s: status is %+v after the end", name, s)
		}
	}
}

// TestApply leaves what is unchanged alone, with its connections, and ends the
// listeners of the rest, without theirs.
func TestApply(t *testing.T) {
	r := newRig(t)
	serve(t, filepath.Join(r.drive, "s"), echo)
	serve(t, filepath.Join(r.guest, "s"), echo)
	f := func(name, listen, connect string) config.Forward {
		return config.Forward{Name: name, Listen: listen, Connect: connect}
	}
	a, b := f("a", r.guest+"/a", `C:\s`), f("b", `C:\b`, r.guest+"/s")
	c, d := f("c", r.guest+"/c", `C:\s`), f("d", r.guest+"/d", `C:\s`)
	added := f("added", r.guest+"/added", `C:\s`)
	r.add(t, added)
	if errs := r.set.Apply([]config.Forward{a, b, c, d}); errs != nil {
		t.Fatal(errs)
	}
	conns := map[string]net.Conn{}
	for name, path := range map[string]string{"a": r.guest + "/a", "b": r.drive + "/b", "c": r.guest + "/c", "d": r.guest + "/d"} {
		r.await(t, name, func(s Status) bool { return s.State == Listening })
		conns[name] = dial(t, path)
		say(t, conns[name], "before")
	}
	since := r.status(t, "a").Since
	c.Listen = r.guest + "/c2"
	bad := f("bad", r.guest+"/a/no/folder", `C:\s`)
	errs := r.set.Apply([]config.Forward{a, b, c, bad})
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "bad") {
		t.Errorf("errors are %v, want one of bad", errs)
	}
	for name, c := range conns {
		say(t, c, "after "+name)
		_ = c.Close()
	}
	if s := r.status(t, "a"); s.Since != since || s.Total != 1 {
		t.Errorf("a is another: %+v", s)
	}
	if got := ask(t, r.guest+"/c2", "x"); got != "x" {
		t.Errorf("c answers %q", got)
	}
	for _, gone := range []string{"/c", "/d"} {
		if _, err := net.Dial("unix", r.guest+gone); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("%s: %v", gone, err)
		}
	}
	if s := r.status(t, "bad"); s.State != Failed || s.LastError == nil {
		t.Errorf("bad is %+v", s)
	}
	r.status(t, "added")
	// One that can't be read now is not one that shall go.
	if errs = r.set.Apply([]config.Forward{f("a", "nonsense", `C:\s`)}); len(errs) != 1 {
		t.Errorf("errors are %v", errs)
	}
	if got := ask(t, r.guest+"/a", "x"); got != "x" {
		t.Errorf("a answers %q", got)
	}
	if len(r.set.Status()) != 2 {
		t.Errorf("status is %+v, want a and added", r.set.Status())
	}
}

// TestRetries: a listener that is refused is tried again.
func TestRetries(t *testing.T) {
	r := newRig(t)
	for name, w := range map[string]struct{ path, listen string }{
		"guest": {r.guest + "/x", r.guest + "/x"}, "host": {r.drive + "/x", `C:\x`},
	} {
		l, err := net.Listen("unix", w.path)
		check(t, err)
		f := config.Forward{Name: name, Listen: w.listen, Connect: `C:\s`}
		if err := r.set.Add(f); !errors.Is(err, errno.EADDRINUSE) {
			t.Errorf("%s: added with %v, want EADDRINUSE", name, err)
		}
		if len(r.set.Status()) != 0 {
			t.Errorf("%s: status is %+v", name, r.set.Status())
		}
		if errs := r.set.Apply([]config.Forward{f}); len(errs) != 1 || !errors.Is(errs[0], errno.EADDRINUSE) {
			t.Errorf("%s: applied with %v", name, errs)
		}
		s := r.status(t, name)
		if s.State != Failed || s.LastError == nil || s.LastError.Errno != "EADDRINUSE" {
			t.Errorf("%s: status is %+v", name, s)
		}
		_ = l.Close()
		r.await(t, name, func(s Status) bool { return s.State == Listening })
		if errs := r.set.Apply(nil); errs != nil {
			t.Error(errs)
		}
	}
}

func TestErrors(t *testing.T) {
	r := newRig(t)
	r.add(t, config.Forward{Name: "a", Listen: r.guest + "/a", Connect: `C:\s`})
	for want, f := range map[string]config.Forward{
		"there already":         {Name: "a", Listen: r.guest + "/b", Connect: `C:\s`},
		"listen: ":              {Name: "b", Listen: "b", Connect: `C:\s`},
		"connect to itself":     {Name: "b", Listen: r.drive + "/b", Connect: `C:\b`},
		"has its own owners":    {Name: "b", Listen: r.drive + "/b", Connect: `C:\s`, Owner: "0"},
		"only Windows has":      {Name: "b", Listen: `\\.\pipe\b`, Connect: r.guest + "/s"},
		"ENOTDIR":               {Name: "b", Listen: r.guest + "/a/b", Connect: r.guest + "/s"},
		"ENAMETOOLONG":          {Name: "b", Listen: r.guest + "/" + strings.Repeat("x", 120), Connect: r.guest + "/s"},
		"connect: port 0 is no": {Name: "b", Listen: r.guest + "/b", Connect: "tcp:127.0.0.1:0"},
	} {
		if err := r.set.Add(f); err == nil {
			t.Errorf("%s: no error", want)
			check(t, r.set.Remove(f.Name))
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("error is %q, want %q", err, want)
		}
	}
	if err := r.set.Remove("b"); err == nil {
		t.Error("removed what isn't there")
	}
	check(t, r.set.Add(config.Forward{Listen: r.guest + "/A_b.sock", Connect: `C:\s`}))
	r.status(t, "a-b")
}

// TestDown: a host listener without a link waits, and that is no error.
func TestDown(t *testing.T) {
	r := newRig(t)
	r.down()
	check(t, r.set.Add(config.Forward{Name: "hg", Listen: `C:\hg`, Connect: r.guest + "/s"}))
	if s := r.status(t, "hg"); s.State != Waiting {
		t.Errorf("state is %s", s.State)
	}
	check(t, r.set.Add(config.Forward{Name: "gh", Listen: r.guest + "/gh", Connect: `C:\s`}))
	r.up(t)
	r.set.LinkUp()
	r.await(t, "hg", func(s Status) bool { return s.State == Listening })
}

func TestTCP(t *testing.T) {
	r := newRig(t)
	serve(t, filepath.Join(r.guest, "s"), shout)
	r.add(t, config.Forward{Name: "g", Listen: "guest:tcp:127.0.0.1:0", Connect: r.guest + "/s"})
	r.add(t, config.Forward{Name: "h", Listen: "tcp:127.0.0.1:0", Connect: r.guest + "/s"})
	for name, prefix := range map[string]string{"g": "guest:tcp:", "h": "tcp:"} {
		s := r.status(t, name)
		addr, ok := strings.CutPrefix(s.Address, prefix+"127.0.0.1:")
		if n, err := strconv.Atoi(addr); !ok || err != nil || n == 0 {
			t.Fatalf("%s listens at %q", name, s.Address)
		}
		c, err := net.Dial("tcp", "127.0.0.1:"+addr)
		check(t, err)
		_, err = io.WriteString(c, "hello")
		check(t, err)
		check(t, c.(*net.TCPConn).CloseWrite())
		b, err := io.ReadAll(c)
		if err != nil || string(b) != "HELLO" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		_ = c.Close()
	}
}

// TestClose ends connections, waits for them, and leaves neither files nor
// descriptors nor goroutines (see TestMain).
func TestClose(t *testing.T) {
	before := descriptors(t)
	r := newRig(t)
	serve(t, filepath.Join(r.drive, "s"), echo)
	serve(t, filepath.Join(r.guest, "s"), echo)
	for i, w := range []config.Forward{
		{Listen: r.guest + "/gh", Connect: `C:\s`}, {Listen: `C:\hg`, Connect: r.guest + "/s"},
		{Listen: r.guest + "/gg", Connect: r.guest + "/s"}, {Listen: `C:\hh`, Connect: `C:\s`},
	} {
		w.Name = string(rune('a' + i))
		r.add(t, w)
	}
	var conns []net.Conn
	for _, path := range []string{r.guest + "/gh", r.drive + "/hg", r.guest + "/gg", r.drive + "/hh"} {
		for range 5 {
			c := dial(t, path)
			say(t, c, "x")
			conns = append(conns, c)
		}
	}
	began := time.Now()
	r.set.Close()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
	for i, c := range conns {
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("connection %d: %d bytes, %v", i, n, err)
		}
		_ = c.Close()
	}
	for _, path := range []string{r.guest + "/gh", r.guest + "/gg", r.drive + "/hg", r.drive + "/hh"} {
		gone := false
		for end := time.Now().Add(5 * time.Second); !gone && time.Now().Before(end); time.Sleep(time.Millisecond) {
			_, err := os.Lstat(path)
			gone = errors.Is(err, os.ErrNotExist)
		}
		if !gone {
			t.Errorf("%s is left behind", path)
		}
	}
	if err := r.set.Add(config.Forward{Listen: r.guest + "/late", Connect: `C:\s`}); err == nil {
		t.Error("added after Close")
	}
	r.down()
	for end := time.Now().Add(5 * time.Second); descriptors(t) > before+2 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if now := descriptors(t); now > before+2 { // the two servers of this test
		t.Errorf("%d descriptors, %d before", now, before)
	}
}

func descriptors(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	return len(list)
}
