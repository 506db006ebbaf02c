package forward

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"drvsock/internal/agent"
	"drvsock/internal/config"
	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/wire"
)

// The test binary also plays a client under another uid.
const clientVar = "DRVSOCK_FORWARD_TEST_CLIENT"

func TestMain(m *testing.M) {
	if path := os.Getenv(clientVar); path != "" {
		os.Exit(clientMain(path))
	}
	goleak.VerifyTestMain(m)
}

// clientMain connects, writes a line and prints what comes back, or the error.
func clientMain(path string) int {
	c, err := net.Dial("unix", path)
	if err == nil {
		defer c.Close()
		if _, err = io.WriteString(c, "hello\n"); err == nil {
			err = c.(*net.UnixConn).CloseWrite()
		}
	}
	var b []byte
	if err == nil {
		b, err = io.ReadAll(c)
	}
	if err != nil {
		os.Stdout.WriteString("error: " + err.Error())
		return 0
	}
	os.Stdout.Write(b)
	return 0
}

// clientAs runs clientMain as a user.
func clientAs(t *testing.T, uid uint32, path string) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe") // whose folder the user may not search
	cmd.Dir = "/"
	cmd.Env = []string{clientVar + "=" + path, "GORACE=atexit_sleep_ms=0"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.Output()
	check(t, err)
	return string(out)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// folder makes a folder with a short path that every uid may search.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "fwd")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	check(t, os.Chmod(dir, 0o755))
	return dir
}

// A host is a Host whose agent plays a host with a folder as drive C.
type host struct {
	drive string

	mu     sync.Mutex
	l      *link.Link // nil while the link is down
	served chan struct{}
	routes map[uint32]func(*link.Incoming)
	opens  int
}

func newHost(t testing.TB) *host {
	t.Helper()
	h := &host{drive: folder(t)}
	h.up(t)
	t.Cleanup(h.down)
	return h
}

// up makes a new link.
func (h *host) up(t testing.TB) {
	t.Helper()
	r1, w1, err := os.Pipe()
	check(t, err)
	r2, w2, err := os.Pipe()
	check(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		rw, err := link.Files(r1, w2)
		if err == nil {
			err = agent.Serve(rw, agent.Config{Drives: map[byte]string{'C': h.drive}})
		}
		if err != nil {
			t.Log("agent:", err)
		}
	}()
	rw, err := link.Files(r2, w1)
	check(t, err)
	l, err := link.New(rw, link.Config{Role: wire.RoleGuest, Handler: h.handle})
	check(t, err)
	h.mu.Lock()
	h.l, h.served, h.routes = l, served, make(map[uint32]func(*link.Incoming))
	h.mu.Unlock()
}

// down loses the link, if there is one.
func (h *host) down() {
	h.mu.Lock()
	l, served := h.l, h.served
	h.l = nil
	h.mu.Unlock()
	if l != nil {
		_ = l.Close()
		<-served
	}
}

func (h *host) handle(in *link.Incoming) {
	h.mu.Lock()
	f := h.routes[in.Request.From]
	h.mu.Unlock()
	if f == nil {
		in.Refuse(errno.Errorf(errno.ECONNREFUSED, errno.LayerGuest, "no route"))
		return
	}
	f(in)
}

func (h *host) Open(ctx context.Context, req wire.Request) (*link.Stream, wire.Answer, error) {
	h.mu.Lock()
	l := h.l
	h.opens++
	h.mu.Unlock()
	if l == nil {
		return nil, wire.Answer{}, errno.Errorf(errno.ENETDOWN, errno.LayerLink, "no link")
	}
	return l.Open(ctx, req)
}

func (h *host) Route(s *link.Stream, accepted func(*link.Incoming)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.routes[s.ID()] = accepted
}

// Path has the drive at its own folder, as `--embed C=DIR` has it.
func (h *host) Path(path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, h.drive+"/")
	return `C:\` + strings.ReplaceAll(rest, "/", `\`), ok
}

// A rig is a set with its host and a folder of the guest.
type rig struct {
	*host
	set   *Set
	guest string
	log   *buffer
}

func newRig(t testing.TB) *rig {
	t.Helper()
	h := newHost(t)
	b := new(buffer)
	r := &rig{host: h, set: NewSet(h, slog.New(slog.NewTextHandler(b, nil))), guest: folder(t), log: b}
	t.Cleanup(func() {
		r.set.Close()
		if t.Failed() {
			t.Log(b.String())
		}
	})
	return r
}

// add adds a forward that must listen.
func (r *rig) add(t testing.TB, f config.Forward) {
	t.Helper()
	check(t, r.set.Add(f))
	r.await(t, f.Name, func(s Status) bool { return s.State == Listening })
}

func (r *rig) status(t testing.TB, name string) Status {
	t.Helper()
	for _, s := range r.set.Status() {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no forward %s", name)
	return Status{}
}

// await waits until the status is as wanted.
func (r *rig) await(t testing.TB, name string, ok func(Status) bool) Status {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		s := r.status(t, name)
		if ok(s) {
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("status of %s stays %+v (last error %+v)", name, s, s.LastError)
		}
	}
}

// A buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// serve listens natively and runs each connection by do.
func serve(t testing.TB, path string, do func(*net.UnixConn)) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	check(t, err)
	if path[0] != '@' {
		check(t, os.Chmod(path, 0o777))
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				do(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		work.Wait()
	})
}

// shout answers what it read to the end in capitals, and ends.
func shout(c *net.UnixConn) {
	b, err := io.ReadAll(c)
	if err == nil {
		_, _ = c.Write(bytes.ToUpper(b))
	}
}

func dial(t testing.TB, path string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	check(t, err)
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// ask writes, half-closes and reads to the end.
func ask(t testing.TB, path, text string) string {
	t.Helper()
	c := dial(t, path)
	defer c.Close()
	_, err := io.WriteString(c, text)
	check(t, err)
	check(t, c.CloseWrite())
	b, err := io.ReadAll(c)
	check(t, err)
	return string(b)
}
