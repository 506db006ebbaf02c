package portfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// plain is the simplest stand-in: the port in five digits and the secret.
func plain(path string) Config {
	return Config{
		Options: Options{UID: -1, GID: -1},
		Path:    path,
		Format:  func(port uint16, s Secret) []byte { return append(fmt.Appendf(nil, "%05d", port), s[:]...) },
		Parse: func(b []byte) (port uint16, s Secret, err error) {
			if len(b) != 5+SecretLen {
				return 0, s, errors.New("wrong length")
			}
			_, err = fmt.Sscanf(string(b[:5]), "%05d", &port)
			return port, Secret(b[5:]), err
		},
		Greet: func(conn net.Conn, s Secret, _ time.Time) (wire.Caller, error) {
			return wire.Caller{}, CheckSecret(conn, s)
		},
	}
}

func listenPlain(t *testing.T, path string) *Listener {
	t.Helper()
	l, err := Listen(plain(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// dial connects without the secret.
func dial(t *testing.T, l *Listener) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp4", l.tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

// Strangers that say nothing are shut out by neither a hang nor a refusal of those
// who know the secret, and the oldest of too many have to go.
func TestStrangers(t *testing.T) {
	l := listenPlain(t, filepath.Join(t.TempDir(), "s"))
	var strangers []net.Conn
	for range maxUnproven + 3 {
		strangers = append(strangers, dial(t, l))
	}
	friend := dial(t, l)
	if _, err := friend.Write(l.secret[:]); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(4*time.Second, func() { _ = l.Close() }) // before strangers time out
	defer late.Stop()
	server, _, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = server.Close()
	for i, c := range strangers[:3] {
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("stranger %d is still there: %v", i, err)
		}
	}
	l.mu.Lock()
	n := l.unproven.Len()
	l.mu.Unlock()
	if n > maxUnproven {
		t.Errorf("%d strangers, at most %d", n, maxUnproven)
	}
}

func TestStrangerTimesOut(t *testing.T) {
	t.Parallel()
	l := listenPlain(t, filepath.Join(t.TempDir(), "s"))
	c := dial(t, l)
	begin := time.Now()
	if _, err := c.Write(l.secret[:15]); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read: %v", err)
	}
	if d := time.Since(begin); d < greetTime-time.Second || d > greetTime+5*time.Second {
		t.Errorf("closed after %v", d)
	}
}

func TestTooManyWait(t *testing.T) {
	l := listenPlain(t, filepath.Join(t.TempDir(), "s"))
	for i := range maxWaiting + 2 {
		c := dial(t, l)
		if _, err := c.Write(l.secret[:]); err != nil {
			t.Fatal(err)
		}
		if i >= maxWaiting {
			_ = c.SetReadDeadline(time.Now().Add(greetTime))
			if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("connection %d, one too many, reads %v", i, err)
			}
			continue
		}
		for end := time.Now().Add(greetTime); len(l.proven) <= i; time.Sleep(100 * time.Microsecond) {
			if time.Now().After(end) {
				t.Fatalf("connection %d doesn't wait, %d do", i, len(l.proven))
			}
		}
	}
}

func TestStale(t *testing.T) {
	dir := t.TempDir()
	gone, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	port := func(l net.Listener) uint16 { return uint16(l.Addr().(*net.TCPAddr).Port) }
	other := listenPlain(t, filepath.Join(dir, "other"))
	mute, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	format := plain("").Format
	for _, c := range []struct {
		name  string
		text  []byte
		taken bool
	}{
		{"nobody listens", format(port(gone), Secret{1}), false},
		{"a stand-in with another secret listens", format(port(other.tcp), Secret{1}), false},
		{"its listener", format(port(other.tcp), other.secret), true},
		{"someone who says nothing", format(port(mute), Secret{1}), true},
		{"another file", []byte("notes"), true},
		{"an empty file", nil, true},
	} {
		path := filepath.Join(dir, "s")
		if err := os.WriteFile(path, c.text, 0o644); err != nil {
			t.Fatal(err)
		}
		l, err := Listen(plain(path))
		if c.taken != errors.Is(err, errno.EADDRINUSE) || c.taken != (l == nil) {
			t.Errorf("%s: %v", c.name, err)
		}
		now, err := os.ReadFile(path)
		if c.taken && (err != nil || !bytes.Equal(now, c.text)) {
			t.Errorf("%s: the file is %q, %v", c.name, now, err)
		}
		if l != nil {
			if st, err := os.Stat(path); err != nil || !sameMode(st.Mode().Perm(), 0o600) {
				t.Errorf("%s: %v, %v", c.name, st, err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
		_ = os.Remove(path)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// Of many who listen at once one does, and its file stays.
func TestOneListens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	var wg sync.WaitGroup
	ls := make([]*Listener, 8)
	for i := range ls {
		wg.Go(func() {
			l, err := Listen(plain(path))
			if err != nil && !errors.Is(err, errno.EADDRINUSE) {
				t.Error(err)
			}
			ls[i] = l
		})
	}
	wg.Wait()
	n := 0
	for _, l := range ls {
		if l == nil {
			continue
		}
		n++
		if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, l.text) {
			t.Errorf("the file is another's: %v", err)
		}
		_ = l.Close()
	}
	if n != 1 {
		t.Errorf("%d listen", n)
	}
}

func TestCloseLeavesAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l := listenPlain(t, path)
	if err := os.WriteFile(path, []byte("notes"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(path); string(b) != "notes" {
		t.Errorf("%q, %v", b, err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("again: %v", err)
	}
}
