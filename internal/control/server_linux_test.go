package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/config"
	"drvsock/internal/report"
)

// strangerUID is another user, who needs no entry anywhere.
const strangerUID = 44001

// A server that is under test.
type rig struct {
	f   *Folder
	log *bytes.Buffer
	end func()
}

func serve(t *testing.T, handle func(context.Context, *Call)) *rig {
	t.Helper()
	r := &rig{f: folder(t), log: new(bytes.Buffer)}
	ln, err := r.f.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	log := slog.New(slog.NewTextHandler(&locked{w: r.log}, nil))
	go func() {
		defer close(done)
		if err := Serve(ctx, ln, log, handle); err != nil {
			t.Error(err)
		}
	}()
	r.end = sync.OnceFunc(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("Serve does not return")
		}
	})
	t.Cleanup(r.end)
	return r
}

type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func echo(_ context.Context, c *Call) {
	_ = c.Answer(&Response{Identity: c.Request.Name, Notes: []string{string(c.Request.Op)}})
}

func (r *rig) client() *Client { return &Client{folder: r.f} }

func (r *rig) raw(t *testing.T) *net.UnixConn {
	t.Helper()
	c, err := r.f.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestAsk carries requests and answers.
func TestAsk(t *testing.T) {
	r := serve(t, echo)
	c := r.client()
	for _, name := range []string{"", "x", strings.Repeat("ä\n\"", 5000)} {
		got, err := c.Do(t.Context(), Request{Op: OpUp, Name: name, Agent: &config.Agent{Link: "l"}})
		if err != nil || got.Identity != name || got.Notes[0] != "up" {
			t.Errorf("%.20q: %+v, %v", name, got, err)
		}
	}
	if _, err := c.Do(t.Context(), Request{Name: strings.Repeat("x", maxRequest)}); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("a request that is too long: %v", err)
	}
	if st, err := os.Lstat(r.f.Socket()); err != nil || st.Mode() != os.ModeSocket|0o600 {
		t.Errorf("the socket's mode: %v, %v", st.Mode(), err)
	}
}

// TestRefusal carries an error and its hint.
func TestRefusal(t *testing.T) {
	r := serve(t, func(_ context.Context, c *Call) { c.Refuse(report.Hint(errors.New("not today"), "try %s", "tomorrow")) })
	_, err := r.client().Do(t.Context(), Request{Op: OpStatus})
	if err == nil || err.Error() != "not today" || report.HintOf(err) != "try tomorrow" {
		t.Errorf("%v, hint %q", err, report.HintOf(err))
	}
}

// TestNoAnswer has a handler that says nothing.
func TestNoAnswer(t *testing.T) {
	r := serve(t, func(context.Context, *Call) {})
	if _, err := r.client().Do(t.Context(), Request{}); err == nil {
		t.Error("no error")
	}
}

// TestBadRequests are cut off with a reason, and cost the others nothing.
func TestBadRequests(t *testing.T) {
	r := serve(t, echo)
	cases := []struct{ name, send, want string }{
		{"no JSON", "hello\n", "request: invalid character"},
		{"another type", "[]\n", "request: json: cannot unmarshal"},
		{"too long", strings.Repeat("x", maxRequest+1), "request: more than 65536 bytes"},
		{"a line without an end", `{"op":"status"}`, "request: EOF"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			conn := r.raw(t)
			go func() {
				_, _ = io.WriteString(conn, c.send)
				_ = conn.CloseWrite()
			}()
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			b, err := io.ReadAll(conn)
			if err != nil && !errors.Is(err, unix.ECONNRESET) { // what it sent was not read in full
				t.Fatal(err)
			}
			var resp Response
			if err := json.Unmarshal(b, &resp); err != nil || !strings.Contains(resp.Error, c.want) {
				t.Errorf("%q, %v, want %q", b, err, c.want)
			}
		})
	}
	if _, err := r.client().Do(t.Context(), Request{}); err != nil {
		t.Errorf("after them: %v", err)
	}
}

// TestSlow cuts off who doesn't finish a request.
func TestSlow(t *testing.T) {
	t.Parallel()
	r := serve(t, echo)
	conn := r.raw(t)
	_, _ = io.WriteString(conn, `{"op":`)
	start := time.Now()
	_ = conn.SetReadDeadline(start.Add(3 * requestWait))
	b, err := io.ReadAll(conn)
	if d := time.Since(start); err != nil || d < requestWait-time.Second || d > requestWait+3*time.Second {
		t.Errorf("cut off after %v, %q, %v, want about %v", d, b, err, requestWait)
	}
}

// TestClientGone ends the work for a client that has left, and TestEnd for all.
func TestClientGone(t *testing.T) {
	begun, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	r := serve(t, func(ctx context.Context, _ *Call) {
		begun <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
	})
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error)
	go func() {
		_, err := r.client().Do(ctx, Request{})
		got <- err
	}()
	<-begun
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("Do: %v, want the context's end", err)
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the work goes on")
	}
	go func() {
		_, err := r.client().Do(t.Context(), Request{})
		got <- err
	}()
	<-begun
	r.end()
	if err := <-got; !errors.Is(err, ErrNone) { // it asked for another one
		t.Errorf("Do at the daemon's end: %v, want ErrNone", err)
	}
}

// TestDescriptors sends two with an answer, and leaves none behind.
func TestDescriptors(t *testing.T) {
	r := serve(t, func(_ context.Context, c *Call) {
		pr, pw, err := os.Pipe()
		if err != nil {
			t.Error(err)
			return
		}
		defer pr.Close()
		defer pw.Close()
		_ = c.Answer(&Response{Identity: strings.Repeat("long", 3000)}, pr, pw)
	})
	count := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	once := func() {
		s, err := r.client().Session(t.Context(), Request{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.W.WriteString("through"); err != nil {
			t.Error(err)
		}
		_ = s.W.Close()
		if b, err := io.ReadAll(s.R); string(b) != "through" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		_ = s.R.Close()
		if len(s.Response.Identity) != 12000 || s.PID != os.Getpid() {
			t.Errorf("%d bytes of the answer, daemon %d", len(s.Response.Identity), s.PID)
		}
		s.End(5 * time.Second)
	}
	once()
	before := count()
	for range 20 {
		once()
		// Who asked for none gets them closed.
		if _, err := r.client().Do(t.Context(), Request{}); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(5 * time.Second); count() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d descriptors, %d before", count(), before)
		}
	}
}

// TestStale replaces the socket of a daemon that was killed, and nothing else.
func TestStale(t *testing.T) {
	f := folder(t)
	for range 2 {
		ln, err := f.Listen()
		if err != nil {
			t.Fatal(err)
		}
		_ = ln.Close()
		if _, err := f.dial(t.Context()); !errors.Is(err, ErrNone) {
			t.Errorf("dial of a stale socket: %v, want ErrNone", err)
		}
	}
	f.Remove()
	if _, err := os.Lstat(f.Socket()); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
	if err := os.WriteFile(f.Socket(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Listen(); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("Listen where a file lies: %v", err)
	}
	f.Remove()
	if _, err := os.Lstat(f.Socket()); err != nil {
		t.Errorf("Remove of a file that is no socket: %v", err)
	}
}

// TestRemoveOwn leaves a socket alone that has taken the place of this daemon's,
// as systemd's does when drvsock.socket is started beside it.
func TestRemoveOwn(t *testing.T) {
	f := folder(t)
	ln, err := f.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := os.Remove(f.Socket()); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("unix", f.at(socketName))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	f.Remove()
	if _, err := os.Lstat(f.Socket()); err != nil {
		t.Errorf("the other one's socket: %v", err)
	}
}

// TestLongPath has a folder whose path is longer than an address.
func TestLongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", dir)
	f, err := OpenFolder(true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ln, err := f.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := Dial(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// stranger is another user's process, which TestStranger starts: it connects to
// the socket that it is told and says what it reads.
func stranger() bool {
	path := os.Getenv("DRVSOCK_TEST_STRANGER")
	if path == "" {
		return false
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		fmt.Println("connect:", err)
		return true
	}
	_, _ = io.WriteString(c, `{"op":"status"}`+"\n")
	b, err := io.ReadAll(c)
	fmt.Printf("read %q %v\n", b, err)
	return true
}

// TestStranger keeps another user out, by the folder and, were that open, by who
// he is.
func TestStranger(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for another account")
	}
	var called atomic.Bool
	r := serve(t, func(ctx context.Context, c *Call) {
		called.Store(true)
		echo(ctx, c)
	})
	exe := filepath.Join(searchable(t), "test")
	self, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(exe, self, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	try := func(uid uint32) string {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), "DRVSOCK_TEST_STRANGER="+r.f.Socket())
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		cmd.Dir = "/"
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if got := try(strangerUID); !strings.Contains(got, "permission denied") {
		t.Errorf("by the folder's mode: %s", got)
	}
	for path, mode := range map[string]os.FileMode{filepath.Dir(r.f.Socket()): 0o755, r.f.Socket(): 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if got := try(strangerUID); !strings.HasPrefix(got, `read ""`) || called.Load() {
		t.Errorf("by who he is: %s, called %v", got, called.Load())
	}
	if got := try(0); !strings.Contains(got, "status") {
		t.Errorf("root: %s", got)
	}
	r.end()
	if want := fmt.Sprintf("uid=%d", strangerUID); !strings.Contains(r.log.String(), want) {
		t.Errorf("the log has no %s:\n%s", want, r.log)
	}
}

// TestFalseDaemon doesn't believe a socket of another user's.
func TestFalseDaemon(t *testing.T) {
	if !(Peer{UID: 0}).trusted() || !(Peer{UID: uint32(os.Geteuid())}).trusted() || (Peer{UID: strangerUID}).trusted() {
		t.Error("whom to trust: want root and the own user, and nobody else")
	}
}

// TestMany has more connections than are served: those beyond are closed at
// once, and there is room again when others end.
func TestMany(t *testing.T) {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil || lim.Cur < 3*maxConns {
		t.Skipf("needs %d descriptors: %v", 3*maxConns, err)
	}
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	var held sync.WaitGroup
	held.Add(maxConns)
	r := serve(t, func(ctx context.Context, c *Call) {
		if c.Request.Name == "hold" {
			held.Done()
			<-hold
		}
		echo(ctx, c)
	})
	t.Cleanup(release)
	var conns []*net.UnixConn
	for range maxConns {
		c := r.raw(t)
		_, _ = io.WriteString(c, `{"name":"hold"}`+"\n")
		conns = append(conns, c)
	}
	held.Wait()
	if _, err := r.client().Do(t.Context(), Request{}); err == nil {
		t.Error("one more is served")
	}
	release()
	for _, c := range conns {
		_ = c.Close()
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err := r.client().Do(t.Context(), Request{})
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("no room again: %v", err)
		}
	}
}

// TestInheritNone has a kernel with close_range(2) as it is now, and older ones.
func TestInheritNone(t *testing.T) {
	old := func(err error) func(uint, uint, uint) error { return func(uint, uint, uint) error { return err } }
	for name, closeRange := range map[string]func(uint, uint, uint) error{
		"this one": unix.CloseRange, "5.10": old(unix.EINVAL), "5.8": old(unix.ENOSYS), "filtered": old(unix.EPERM),
	} {
		var p [2]int
		if err := unix.Pipe(p[:]); err != nil {
			t.Fatal(err)
		}
		if err := inheritNone(closeRange); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, fd := range p {
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("%s: descriptor %d would be inherited, %v", name, fd, err)
			}
			_ = unix.Close(fd)
		}
		if flags, err := unix.FcntlInt(2, unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC != 0 {
			t.Errorf("%s: stderr would not be inherited", name)
		}
	}
}

// FuzzRequest wants whatever is read as a request to be one again when written.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"op":"session","name":"x","agent":{"link":"l"},"wait_ms":3}`))
	f.Add([]byte(`{"op":1}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var r Request
		if json.Unmarshal(line, &r) != nil {
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatalf("%q can't be written again: %v", line, err)
		}
		var r2 Request
		if err := json.Unmarshal(again, &r2); err != nil {
			t.Fatalf("%q can't be read again: %v", again, err)
		}
	})
}
