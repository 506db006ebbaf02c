package socket

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"

	"drvsock/internal/endpoint"
	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// pipe returns a name that no other test has.
func pipe(t testing.TB) endpoint.Name {
	return endpoint.Name{Network: wire.NetPipe, Path: fmt.Sprintf(`\\.\pipe\drvsock-%d-%s`, os.Getpid(), t.Name())}
}

func listen(t testing.TB, n endpoint.Name, o Options) Listener {
	t.Helper()
	l, err := Listen(n, o)
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	return l
}

// pour writes n random bytes and returns their hash.
func pour(w io.Writer, seed byte, n int) ([32]byte, error) {
	src := rand.NewChaCha8([32]byte{seed})
	rng := rand.New(src)
	sum := sha256.New()
	buf := make([]byte, 50000)
	for n > 0 {
		part := buf[:min(n, 1+rng.IntN(len(buf)))]
		_, _ = src.Read(part)
		sum.Write(part)
		if _, err := w.Write(part); err != nil {
			return [32]byte{}, err
		}
		n -= len(part)
	}
	return [32]byte(sum.Sum(nil)), nil
}

const size = 8 << 20

// both pours into both ends of a connection at once and checks what arrives. half
// ends each direction by itself; else the second end closes after it has all.
func both(t *testing.T, a, b Conn, half bool) {
	t.Helper()
	var wg sync.WaitGroup
	var sent, got [2][32]byte
	ends := []Conn{a, b}
	for i := range ends {
		wg.Go(func() {
			var err error
			if sent[i], err = pour(ends[i], byte(i), size); err != nil {
				t.Errorf("write at %d: %v", i, err)
			}
			if half {
				if err := ends[i].CloseWrite(); err != nil {
					t.Errorf("CloseWrite at %d: %v", i, err)
				}
			}
		})
		wg.Go(func() {
			sum := sha256.New()
			limit := int64(size)
			if half {
				limit++ // and so the end as well
			}
			n, err := io.Copy(sum, io.LimitReader(ends[1-i], limit))
			if n != size || err != nil {
				t.Errorf("read at %d: %d bytes, %v", 1-i, n, err)
			}
			got[i] = [32]byte(sum.Sum(nil))
		})
	}
	wg.Wait()
	if sent != got {
		t.Error("other bytes arrived than were sent")
	}
}

func TestPipe(t *testing.T) {
	for _, message := range []bool{false, true} {
		t.Run(fmt.Sprintf("message=%v", message), func(t *testing.T) {
			n := pipe(t)
			n.Path = strings.ReplaceAll(n.Path, "/", "-")
			l := listen(t, n, Options{Message: message})
			if l.Addr() != n.Path {
				t.Errorf("address %s", l.Addr())
			}
			a := dial(t, n)
			defer a.Close()
			b, peer, err := l.Accept()
			check(t, err)
			defer b.Close()
			if peer.Caller.PID != uint32(os.Getpid()) || peer.Caller.Program == "" || peer.Caller.User == "" {
				t.Errorf("caller %+v", peer.Caller)
			}
			t.Logf("caller %+v", peer.Caller)
			begin := time.Now()
			both(t, a, b, message)
			t.Logf("%d MiB each way in %v", size>>20, time.Since(begin))
			if !message {
				// No half-close: it does nothing, and the other direction goes on.
				check(t, a.CloseWrite())
				_, err := io.WriteString(b, "on")
				check(t, err)
				_, err = io.ReadFull(a, make([]byte, 2))
				check(t, err)
				_, err = io.WriteString(a, "on")
				check(t, err)
				_, err = io.ReadFull(b, make([]byte, 2))
				check(t, err)
			}
			check(t, a.Close())
			if k, err := b.Read(make([]byte, 1)); k != 0 || err != io.EOF {
				t.Errorf("read after the peer's Close: %d, %v", k, err)
			}
		})
	}
}

// What was written comes before the end, also if the writer closes at once.
func TestPipeCloseDelivers(t *testing.T) {
	for _, message := range []bool{false, true} {
		for _, half := range []bool{false, true} {
			n := pipe(t)
			l := listen(t, n, Options{Message: message})
			for range 5 {
				a := dial(t, n)
				b, _, err := l.Accept()
				check(t, err)
				for _, c := range []Conn{a, b} {
					_, err = io.WriteString(c, "last words")
					check(t, err)
				}
				if half {
					check(t, b.CloseWrite())
				}
				check(t, b.Close())
				time.Sleep(10 * time.Millisecond)
				got, err := io.ReadAll(a)
				if string(got) != "last words" || err != nil {
					t.Errorf("message %v, half %v: %q, %v", message, half, got, err)
				}
				_, err = io.WriteString(a, "x")
				// What sends the end in the peer's name has a handle of its own, and
				// closes it after the end has been read.
				for end := time.Now().Add(2 * time.Second); err == nil && half && time.Now().Before(end); time.Sleep(time.Millisecond) {
					_, err = io.WriteString(a, "x")
				}
				if err == nil || errno.FromSystem(err, 0).Errno != errno.EPIPE {
					t.Errorf("write after the peer's Close: %v", err)
				}
				check(t, a.Close())
			}
			check(t, l.Close())
		}
	}
}

// A peer that never reads doesn't keep CloseWrite going after Close.
func TestPipeCloseEndsCloseWrite(t *testing.T) {
	n := pipe(t)
	l := listen(t, n, Options{Message: true})
	a := dial(t, n)
	defer a.Close()
	b, _, err := l.Accept()
	check(t, err)
	_, err = io.WriteString(b, "never read")
	check(t, err)
	check(t, b.CloseWrite())
	if _, err := io.WriteString(b, "x"); errno.Of(err) != errno.EPIPE {
		t.Errorf("write after CloseWrite: %v", err)
	}
	check(t, b.CloseWrite())
	check(t, b.Close())
	if err := b.CloseWrite(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("CloseWrite after Close: %v", err)
	}
	ending := func() bool {
		p := b.(*pipeConn)
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.own != 0
	}
	for end := time.Now().Add(2 * time.Second); ending(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("CloseWrite goes on")
		}
	}
}

// With programs that use go-winio.
func TestPipeWithOthers(t *testing.T) {
	n := pipe(t)
	l := listen(t, n, Options{Message: true})
	echo(l)
	c, err := winio.DialPipeContext(t.Context(), n.Path)
	check(t, err)
	converse(t, c.(Conn), strings.Repeat("text", 100000))
	check(t, l.Close())
}

func TestPipeInstances(t *testing.T) {
	n := pipe(t)
	l := listen(t, n, Options{Message: true})
	peers := echo(l)
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() { converse(t, dial(t, n), strings.Repeat("text", i*1000)) })
	}
	wg.Wait()
	check(t, l.Close())
	k := 0
	for range peers {
		k++
	}
	if k != 30 {
		t.Errorf("%d connections", k)
	}
}

// Connections outlive their listener, and don't keep the name from a new one.
func TestPipeListenAgain(t *testing.T) {
	n := pipe(t)
	l := listen(t, n, Options{Message: true})
	a := dial(t, n)
	defer a.Close()
	b, _, err := l.Accept()
	check(t, err)
	defer b.Close()
	_, err = Listen(n, Options{Message: true})
	refused(t, err, errno.EADDRINUSE, "this process")
	check(t, l.Close())
	check(t, l.Close())
	if _, _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	_, err = Listen(n, Options{})
	refused(t, err, errno.EADDRINUSE, "of another mode")
	l = listen(t, n, Options{Message: true})
	echo(l)
	converse(t, dial(t, n), "new")
	go func() {
		_, _ = io.Copy(b, b)
		_ = b.CloseWrite()
	}()
	converse(t, a, "old")
	check(t, l.Close())
}

func TestPipeAcceptEnds(t *testing.T) {
	l := listen(t, pipe(t), Options{})
	ended := make(chan error)
	go func() {
		_, _, err := l.Accept()
		ended <- err
	}()
	time.Sleep(20 * time.Millisecond)
	check(t, l.Close())
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	_, err := Dial(t.Context(), endpoint.Name{Network: wire.NetPipe, Path: l.Addr()})
	refused(t, err, errno.ENOENT)
}

// rawPipe makes a pipe of one instance by the system's own means.
func rawPipe(t *testing.T, path string) windows.Handle {
	t.Helper()
	name, err := windows.UTF16PtrFromString(path)
	check(t, err)
	h, err := windows.CreateNamedPipe(name, windows.PIPE_ACCESS_DUPLEX, windows.PIPE_TYPE_BYTE, 1, 4096, 4096, 0, nil)
	check(t, err)
	return h
}

func TestPipeBusy(t *testing.T) {
	n := pipe(t)
	h := rawPipe(t, n.Path)
	defer windows.CloseHandle(h)
	first := dial(t, n)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := Dial(ctx, n)
	refused(t, err, errno.EAGAIN, "in use")
	if d := time.Since(begin); d < 50*time.Millisecond {
		t.Errorf("refused after %v", d)
	}
	ended, stop := context.WithCancelCause(t.Context())
	time.AfterFunc(20*time.Millisecond, func() { stop(errno.ECANCELED) })
	_, err = Dial(ended, n)
	refused(t, err, errno.ECANCELED)
	got := make(chan error)
	go func() {
		c, err := Dial(t.Context(), n)
		if err == nil {
			_ = c.Close()
		}
		got <- err
	}()
	time.Sleep(20 * time.Millisecond)
	check(t, first.Close())
	check(t, windows.DisconnectNamedPipe(h))
	go func() { _ = windows.ConnectNamedPipe(h, nil) }()
	if err := <-got; err != nil {
		t.Errorf("dial of a pipe that became free: %v", err)
	}
}

func TestPipeRefusals(t *testing.T) {
	_, err := Dial(t.Context(), pipe(t))
	refused(t, err, errno.ENOENT)
	for _, path := range []string{`\\.\pipe\`, `\\server\pipe\x`, `C:\x`, `\\.\pipe\..\PhysicalDrive0`, `\\.\pipe\a\.\b`, `\\.\pipe\a/b`, `\\.\pipe\a\\b`, `\\?\pipe\x`} {
		_, err := Dial(t.Context(), endpoint.Name{Network: wire.NetPipe, Path: path})
		refused(t, err, errno.EINVAL)
		_, err = Listen(endpoint.Name{Network: wire.NetPipe, Path: path}, plain())
		refused(t, err, errno.EINVAL)
	}
	_, err = Listen(pipe(t), Options{Access: []string{"no such account here"}})
	refused(t, err, errno.EINVAL, "no such account here")
	_, err = Listen(pipe(t), Options{Access: []string{"S-1-x"}})
	refused(t, err, errno.EINVAL, "S-1-x")
}

// The name of another process's pipe is taken, and it is said by whom.
func TestPipeSquatter(t *testing.T) {
	n := pipe(t)
	cmd, end := child(t, "listen", n.Path)
	defer end()
	process := fmt.Sprint("process ", cmd.Process.Pid)
	if who, exists := pipeOwner(n.Path); !exists || !strings.Contains(who, process) {
		t.Errorf("owner %q, %v, want %s", who, exists, process)
	}
	if underWine {
		t.Skip("Wine lets everybody join a pipe")
	}
	_, err := Listen(n, plain())
	refused(t, err, errno.EADDRINUSE, "serves it", process)
}

func TestPipeCaller(t *testing.T) {
	n := pipe(t)
	l := listen(t, n, plain())
	cmd, end := child(t, "dial", n.Path)
	defer end()
	c, peer, err := l.Accept()
	check(t, err)
	defer c.Close()
	if peer.Caller.PID != uint32(cmd.Process.Pid) {
		t.Errorf("caller %+v, want process %d", peer.Caller, cmd.Process.Pid)
	}
}

// The ACL is what it is meant to be: for this account everything, for those that
// were named what connecting takes, and for others nothing.
func TestPipeACL(t *testing.T) {
	own, err := ownSID()
	check(t, err)
	for _, tt := range []struct {
		access []string
		want   string
	}{
		{nil, ""},
		{[]string{"S-1-1-0", own.String()}, "(A;;0x12019b;;;WD)"},
	} {
		n := pipe(t)
		l := listen(t, n, Options{Access: tt.access})
		sd, err := windows.GetSecurityInfo(l.(*pipeListener).pending[0].h, windows.SE_KERNEL_OBJECT, windows.DACL_SECURITY_INFORMATION)
		check(t, err)
		want := []string{"D:P(A;;FA;;;" + own.String() + ")" + tt.want, "D:P(A;;GA;;;" + own.String() + ")" + tt.want}
		if got := sd.String(); got != want[0] && got != want[1] {
			t.Errorf("%s, want %s", got, want[0])
		}
		check(t, l.Close())
	}
}
