package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/afunix"
	"drvsock/internal/drive"
	"drvsock/internal/errno"
)

func testHost(t testing.TB, dir string) *host {
	t.Helper()
	h, err := newHost(Config{Drives: map[byte]string{'c': dir}, Log: slog.New(slog.DiscardHandler)})
	check(t, err)
	return h
}

func TestNewHost(t *testing.T) {
	dir := folder(t)
	check(t, os.WriteFile(dir+"/file", nil, 0o600))
	tests := []struct {
		name   string
		drives map[byte]string
		want   errno.Errno // 0 for none
	}{
		{"none", nil, 0},
		{"both cases of a letter", map[byte]string{'c': dir, 'D': dir}, 0},
		{"no letter", map[byte]string{'1': dir}, errno.EINVAL},
		{"brace, a letter but for a bit", map[byte]string{'{': dir}, errno.EINVAL},
		{"twice", map[byte]string{'c': dir, 'C': dir}, errno.EINVAL},
		{"missing", map[byte]string{'c': dir + "/no"}, errno.ENOENT},
		{"file", map[byte]string{'c': dir + "/file"}, errno.ENOTDIR},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newHost(Config{Drives: tt.drives})
			var got errno.Errno
			if err != nil {
				got = errno.FromSystem(err, errno.LayerAgent).Errno
			}
			if got != tt.want {
				t.Errorf("newHost: %v, want %v", err, tt.want)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	dir := folder(t)
	h := testHost(t, dir)
	tests := []struct {
		path, dir, name string
		errno           errno.Errno
	}{
		{`C:\x.sock`, dir, "x.sock", 0},
		{`c:\a\b\x.sock`, dir + "/a/b", "x.sock", 0},
		{`C:\`, dir, ".", 0},
		{"C:\\we\uf03aird", dir, "we:ird", 0},
		{"C:\\a\uf05cb\\x", dir + `/a\b`, "x", 0},
		{"C:\\uf02f", dir, "uf02f", 0},
		{`D:\x.sock`, "", "", errno.ENOENT},
		{`C:x.sock`, "", "", errno.EINVAL},
		{`/tmp/x.sock`, "", "", errno.EINVAL},
		{`C:\..\x`, "", "", errno.EINVAL},
		{`C:\.\x`, "", "", errno.EINVAL},
		{`C:\a\\x`, "", "", errno.EINVAL},
		{`C:\a\x\`, "", "", errno.EINVAL},
		{`C:\a/../../x`, "", "", errno.EINVAL},
		{"C:\\a\x00b", "", "", errno.EINVAL},
		{``, "", "", errno.EINVAL},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			d, n, err := h.resolve([]byte(tt.path))
			if d != tt.dir || n != tt.name || errno.Of(err) != tt.errno {
				t.Errorf("resolve: %q, %q, %v, want %q, %q, %v", d, n, err, tt.dir, tt.name, tt.errno)
			}
			var e *errno.Error
			if err != nil && (!errors.As(err, &e) || e.Layer != errno.LayerAgent) {
				t.Errorf("error %v isn't of the agent's layer", err)
			}
		})
	}
}

// nativeMode binds natively under a umask and returns the file's mode.
func nativeMode(t *testing.T, path string, umask int) os.FileMode {
	t.Helper()
	fd, err := afunix.NewSocket()
	check(t, err)
	defer unix.Close(fd)
	check(t, afunix.OnOwnThread(func() error {
		unix.Umask(umask)
		return afunix.Bind(fd, path)
	}))
	return mode(t, path)
}

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	st, err := os.Lstat(path)
	check(t, err)
	return st.Mode()
}

func TestBindMode(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	h := testHost(t, dir)
	before := unix.Umask(0o022)
	unix.Umask(before)
	for _, umask := range []int{0, 0o022, 0o077, 0o777, 0o027} {
		want := nativeMode(t, dir+"/native", umask)
		s, err := h.bind(hostPath("ours"), []byte("ours"), bindOptions{mode: uint32(0o777 &^ umask)})
		check(t, err)
		if got := mode(t, dir+"/ours"); got != want {
			t.Errorf("umask %#o: mode %v, natively %v", umask, got, want)
		}
		check(t, s.removeOwn())
		s.close()
		check(t, os.Remove(dir+"/native"))
	}
	after := unix.Umask(before)
	if after != before {
		t.Errorf("umask of the process became %#o, was %#o", after, before)
	}
}

// The name that the host's peer sees is the guest's own, whatever the folder.
func TestPeerSeesName(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	h := testHost(t, dir)
	deep := strings.Repeat("/"+strings.Repeat("d", 60), 4)
	check(t, os.MkdirAll(dir+deep, 0o755))
	longest := strings.Repeat("n", afunix.MaxName)
	tests := []struct {
		name string
		file string // below dir
		own  string // Request.Name
		want string
	}{
		{"own name", "client.sock", "client.sock", "client.sock"},
		{"no own name", "client.sock", "", dir + "/client.sock"},
		{"another name", "client.sock", "other.sock", dir + "/client.sock"},
		{"own name in a deep folder", deep[1:] + "/client.sock", "client.sock", "client.sock"},
		{"no own name in a deep folder", deep[1:] + "/client.sock", "", "client.sock"},
		{"at sign", "@client", "@client", "@client"},
		{"as long as a name can be", longest, longest, longest},
		{"escaped", "we\uf03aird", "we:ird", "we:ird"},
		{"bytes that are no UTF-8", "x\xff", "x\xff", "x\xff"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv, err := h.bind(hostPath(deep[1:]+"/srv"), nil, bindOptions{mode: 0o777})
			check(t, err)
			defer srv.close()
			defer func() { check(t, srv.removeOwn()) }()
			check(t, srv.listen(5))
			s, err := h.bind(hostPath(tt.file), []byte(tt.own), bindOptions{mode: 0o777})
			check(t, err)
			defer s.close()
			file := filepath.Join(dir, string(drive.UnescapeName([]byte(tt.file))))
			if _, err := os.Lstat(file); err != nil {
				t.Fatalf("file: %v", err)
			}
			c, err := s.connect(t.Context(), hostPath(deep[1:]+"/srv"), afunix.Wait{})
			check(t, err)
			defer c.Close()
			r, peer, err := srv.accept()
			check(t, err)
			defer r.Close()
			if string(peer) != tt.want {
				t.Errorf("peer %q, want %q", peer, tt.want)
			}
			// Closing the handle must not cut the connection, whose end is c's.
			s.close()
			if err := afunix.Control(c.(*afunix.Conn), func(fd int) error {
				_, err := unix.Write(fd, []byte("x"))
				return err
			}); err != nil {
				t.Errorf("write after the handle is closed: %v", err)
			}
			check(t, c.Close())
			b := make([]byte, 2)
			if n, err := r.Read(b); n != 1 || err != nil {
				t.Errorf("read: %d, %v", n, err)
			}
			if n, err := r.Read(b); n != 0 || err == nil {
				t.Errorf("read at the end: %d, %v", n, err)
			}
			check(t, s.removeOwn())
			if _, err := os.Lstat(file); !os.IsNotExist(err) {
				t.Errorf("file is still there: %v", err)
			}
		})
	}
}

func TestPeerUnnamedAndAbstract(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	h := testHost(t, dir)
	srv, err := h.bind(hostPath("srv"), nil, bindOptions{mode: 0o777})
	check(t, err)
	defer srv.close()
	check(t, srv.listen(5))
	for _, want := range []string{"", fmt.Sprintf("\x00drvsock-test-%d\x00tail", os.Getpid())} {
		fd, err := afunix.NewSocket()
		check(t, err)
		if want != "" {
			check(t, afunix.Bind(fd, want))
		}
		check(t, afunix.Connect(fd, dir+"/srv"))
		c, peer, err := srv.accept()
		check(t, err)
		if string(peer) != want {
			t.Errorf("peer %q, want %q", peer, want)
		}
		_ = c.Close()
		_ = unix.Close(fd)
	}
}

// What a bound socket refuses, beside the same calls on a native one.
func TestStates(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	h := testHost(t, dir)
	scene(t, dir)
	ctx := t.Context()
	open := func(name string) *unixSocket {
		s, err := h.bind(hostPath(name), nil, bindOptions{mode: 0o777})
		check(t, err)
		t.Cleanup(s.close)
		return s
	}
	oracle := func(name string) int {
		fd, err := afunix.NewSocket()
		check(t, err)
		t.Cleanup(func() { _ = unix.Close(fd) })
		check(t, afunix.Bind(fd, dir+"/"+name))
		return fd
	}
	same := func(what string, got, want error) {
		t.Helper()
		var n syscall.Errno
		errors.As(want, &n)
		if errno.Of(errOrNil(got)) != errno.Errno(n) {
			t.Errorf("%s: %v, natively %v", what, got, want)
		}
	}
	live := hostPath("live")

	s, fd := open("a"), oracle("na")
	same("listen", s.listen(1), unix.Listen(fd, 1))
	same("listen again", s.listen(7), unix.Listen(fd, 7))
	_, err := s.connect(ctx, live, afunix.Wait{})
	same("connect of a listener", err, afunix.Connect(fd, dir+"/live"))

	s, fd = open("b"), oracle("nb")
	_, err = s.connect(ctx, hostPath("stale"), afunix.Wait{})
	same("connect refused", err, afunix.Connect(fd, dir+"/stale"))
	c, err := s.connect(ctx, live, afunix.Wait{})
	same("connect after that", err, afunix.Connect(fd, dir+"/live"))
	_, err = s.connect(ctx, live, afunix.Wait{})
	same("connect twice", err, afunix.Connect(fd, dir+"/live"))
	same("listen after connect", s.listen(1), unix.Listen(fd, 1))
	_ = c.Close()
}

// errOrNil makes an errno.Error of err, as the server does.
func errOrNil(err error) error {
	if err == nil {
		return nil
	}
	return errno.FromSystem(err, errno.LayerHost)
}

// A file that is not the one that bind made stays.
func TestRemoveOwn(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	h := testHost(t, dir)
	path := dir + "/x"
	tests := []struct {
		name   string
		meddle func(t *testing.T)
		stays  bool
	}{
		{"untouched", func(*testing.T) {}, false},
		{"mode changed", func(t *testing.T) { check(t, os.Chmod(path, 0o600)) }, false},
		{"removed", func(t *testing.T) { check(t, os.Remove(path)) }, false},
		{"replaced by a file", func(t *testing.T) {
			check(t, os.Remove(path))
			check(t, os.WriteFile(path, nil, 0o600))
		}, true},
		{"replaced by another socket", func(t *testing.T) {
			check(t, os.Remove(path))
			bound(t, path, unix.SOCK_STREAM)
		}, true},
		{"moved away and replaced by a link to it", func(t *testing.T) {
			check(t, os.Rename(path, dir+"/y"))
			check(t, os.Symlink("y", path))
		}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := h.bind(hostPath("x"), nil, bindOptions{mode: 0o777})
			check(t, err)
			defer s.close()
			tt.meddle(t)
			check(t, s.removeOwn())
			_, err = os.Lstat(path)
			if stays := err == nil; stays != tt.stays {
				t.Errorf("file stays: %v, want %v", stays, tt.stays)
			}
			_ = os.Remove(path)
			_ = os.Remove(dir + "/y")
		})
	}
}

// A connect that waits for room gets it, and stops with its context.
func TestConnectWaits(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	h := testHost(t, dir)
	fd := bound(t, dir+"/srv", unix.SOCK_STREAM)
	check(t, unix.Listen(fd, 0))
	first, err := h.dial(t.Context(), hostPath("srv"), afunix.Wait{})
	check(t, err)
	defer first.Close()

	ctx, cancel := context.WithCancel(t.Context())
	const many = 64 + 20 // more than there are threads for
	stopped := make(chan error, many)
	for range many {
		go func() {
			_, err := h.dial(ctx, hostPath("srv"), afunix.Wait{})
			stopped <- err
		}()
	}
	select {
	case err := <-stopped:
		t.Fatalf("connect did not wait: %v", err)
	case <-time.After(150 * time.Millisecond):
	}
	cancel()
	for range many {
		select {
		case err := <-stopped:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("stopped connect: %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("connect outlives its context")
		}
	}

	begin := time.Now()
	if _, err := h.dial(t.Context(), hostPath("srv"), afunix.Wait{Limit: 250 * time.Millisecond}); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("connect with a timeout: %v", err)
	}
	if d := time.Since(begin); d < 240*time.Millisecond || d > 3*time.Second {
		t.Errorf("timeout took %v", d)
	}

	got := make(chan error, 1)
	go func() {
		c, err := h.dial(t.Context(), hostPath("srv"), afunix.Wait{})
		if err == nil {
			err = c.Close()
		}
		got <- err
	}()
	time.Sleep(50 * time.Millisecond)
	for range 2 {
		c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		check(t, err)
		_ = unix.Close(c)
	}
	if err := <-got; err != nil {
		t.Errorf("connect after room came: %v", err)
	}
}

func TestConnectionIsNotBlocking(t *testing.T) {
	dir := folder(t)
	over := make(chan struct{})
	listener(t, dir+"/srv", func(c *net.UnixConn) { <-over; _ = c.Close() })
	c, err := testHost(t, dir).dial(t.Context(), hostPath("srv"), afunix.Wait{})
	check(t, err)
	defer c.Close()
	defer close(over)
	var flags int
	check(t, afunix.Control(c.(*afunix.Conn), func(fd int) (err error) {
		flags, err = unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		return err
	}))
	if flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %#x, want O_NONBLOCK among them", flags)
	}
}

// TestBindOwner gives a socket to another user, in a folder that only root may
// write to, and expects nothing else of the process to have changed.
func TestBindOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: sudo go test ./internal/agent")
	}
	dir := folder(t)
	h := testHost(t, dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := h.bind(hostPath("x"), nil, bindOptions{mode: 0o700, owner: &owner{4321, 4322}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	var st unix.Stat_t
	if err := unix.Lstat(dir+"/x", &st); err != nil {
		t.Fatal(err)
	}
	if st.Uid != 4321 || st.Gid != 4322 || st.Mode != unix.S_IFSOCK|0o700 {
		t.Errorf("got owner %d:%d and mode %#o, want 4321:4322 and %#o", st.Uid, st.Gid, st.Mode, unix.S_IFSOCK|0o700)
	}
	own, err := h.bind(hostPath("y"), nil, bindOptions{mode: 0o700})
	if err != nil {
		t.Fatal(err)
	}
	defer own.close()
	if err := unix.Lstat(dir+"/y", &st); err != nil {
		t.Fatal(err)
	}
	if st.Uid != 0 {
		t.Errorf("the next socket belongs to user %d, want 0", st.Uid)
	}
}
