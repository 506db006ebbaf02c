package socket

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/endpoint"
	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

func unixName(path string) endpoint.Name { return endpoint.Name{Path: path} }

// plain are options for a socket of this account.
func plain() Options { return Options{UID: -1, GID: -1} }

func listen(t testing.TB, path string, o Options) Listener {
	t.Helper()
	l, err := Listen(unixName(path), o)
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	return l
}

// echo serves l until it is closed and tells who came.
func echo(l Listener) <-chan Peer {
	peers := make(chan Peer, 100)
	go func() {
		for {
			c, peer, err := l.Accept()
			if err != nil {
				close(peers)
				return
			}
			peers <- peer
			go func() {
				_, _ = io.Copy(struct{ io.Writer }{c}, c) // not by splice(2), whose pipes stay
				_ = c.CloseWrite()
				_ = c.Close()
			}()
		}
	}()
	return peers
}

// converse sends text, half-closes and expects it back.
func converse(t testing.TB, c Conn, text string) {
	t.Helper()
	defer c.Close()
	wrote := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, text)
		wrote <- errors.Join(err, c.CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err := errors.Join(err, <-wrote); err != nil || string(got) != text {
		t.Errorf("%d bytes back of %d: %v", len(got), len(text), err)
	}
}

func dial(t testing.TB, n endpoint.Name) Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := Dial(ctx, n)
	check(t, err)
	return c
}

func refused(t testing.TB, err error, want errno.Errno, words ...string) {
	t.Helper()
	e := errno.FromSystem(err, errno.LayerHost)
	if e == nil || e.Errno != want {
		t.Errorf("%v, want %v", err, want)
		return
	}
	for _, w := range words {
		if !strings.Contains(e.Text, w) {
			t.Errorf("%q doesn't say %q", e.Text, w)
		}
	}
}

func TestUnix(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	long := dir + strings.Repeat("/"+strings.Repeat("d", 60), 3)
	check(t, os.MkdirAll(long, 0o755))
	for _, path := range []string{dir + "/s", long + "/s", "@drvsock-test-" + strconv.Itoa(os.Getpid())} {
		l := listen(t, path, plain())
		if l.Addr() != path {
			t.Errorf("address %q, want %q", l.Addr(), path)
		}
		peers := echo(l)
		converse(t, dial(t, unixName(path)), strings.Repeat("text", 1<<16))
		got := <-peers
		self, err := os.Executable()
		check(t, err)
		want := wire.Caller{UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), PID: uint32(os.Getpid()), Program: self[strings.LastIndexByte(self, '/')+1:]}
		if got.Caller != want || len(got.Name) != 0 {
			t.Errorf("peer %+v, want %+v", got, want)
		}
		_, err = Listen(unixName(path), plain())
		refused(t, err, errno.EADDRINUSE, strconv.Itoa(os.Getpid()), "listens")
		check(t, l.Close())
		if !strings.HasPrefix(path, "@") {
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("file after Close: %v", err)
			}
		}
		for range peers { // until Accept has ended
		}
		if _, _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept after Close: %v", err)
		}
	}
}

// A bound client is known by its name.
func TestPeerName(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	peers := echo(listen(t, dir+"/s", plain()))
	c, err := net.DialUnix("unix", &net.UnixAddr{Name: dir + "/client"}, &net.UnixAddr{Name: dir + "/s"})
	check(t, err)
	converse(t, c, "x")
	if got := <-peers; string(got.Name) != dir+"/client" {
		t.Errorf("name %q", got.Name)
	}
}

func TestModeAndOwner(t *testing.T) {
	needRoot(t)
	noDescriptorLeft(t)
	dir := folder(t)
	check(t, os.Mkdir(dir+"/setgid", 0o755))
	check(t, os.Chown(dir+"/setgid", 0, 1234))
	check(t, os.Chmod(dir+"/setgid", 0o755|fs.ModeSetgid))
	tests := []struct {
		path     string
		o        Options
		mode     fs.FileMode
		uid, gid uint32
	}{
		{"/a", Options{UID: -1, GID: -1}, 0o600, 0, 0},
		{"/b", Options{Mode: 0o666, UID: -1, GID: -1}, 0o666, 0, 0},
		{"/c", Options{Mode: 0o660, UID: nobody, GID: 4321}, 0o660, nobody, 4321},
		{"/d", Options{Mode: 0o640, UID: -1, GID: 4321}, 0o640, 0, 4321},
		{"/e", Options{UID: nobody, GID: -1}, 0o600, nobody, 0},
		{"/setgid/a", Options{UID: -1, GID: -1}, 0o600, 0, 1234},
		{"/setgid/b", Options{UID: -1, GID: 4321}, 0o600, 0, 4321},
	}
	before := unix.Umask(0o022)
	defer unix.Umask(before)
	for _, tt := range tests {
		listen(t, dir+tt.path, tt.o)
		st, err := os.Lstat(dir + tt.path)
		check(t, err)
		sys := st.Sys().(*syscall.Stat_t)
		if st.Mode().Perm() != tt.mode || sys.Uid != tt.uid || sys.Gid != tt.gid {
			t.Errorf("%s: %v %d:%d, want %v %d:%d", tt.path, st.Mode().Perm(), sys.Uid, sys.Gid, tt.mode, tt.uid, tt.gid)
		}
	}
}

// A group can be given by its members, and by nobody else.
func TestGroupByMember(t *testing.T) {
	needRoot(t)
	dir := folder(t)
	check(t, os.Chmod(dir, 0o777))
	cmd := child(t, nobody, "group", dir+"/s")
	cmd.SysProcAttr.Credential.Groups = []uint32{4321}
	out, err := cmd.Output()
	if want := "0 <nil> 0660 4321\n1 no such file or directory 0 0\n"; err != nil || string(out) != want {
		t.Errorf("%q, %v, want %q", out, err, want)
	}
}

// Who may connect is what the kernel says of the mode.
func TestOtherUser(t *testing.T) {
	needRoot(t)
	noDescriptorLeft(t)
	dir := folder(t)
	abstract := "@drvsock-other-" + strconv.Itoa(os.Getpid())
	for path, o := range map[string]Options{
		dir + "/closed":     {UID: -1, GID: -1},
		dir + "/open":       {Mode: 0o666, UID: -1, GID: -1},
		dir + "/owned":      {UID: nobody, GID: -1},
		dir + "/group":      {Mode: 0o660, UID: -1, GID: nobody},
		dir + "/othergroup": {Mode: 0o660, UID: -1, GID: 4321},
	} {
		echo(listen(t, path, o))
		want := syscall.Errno(0)
		if strings.HasSuffix(path, "/closed") || strings.HasSuffix(path, "/othergroup") {
			want = unix.EACCES
		}
		out, err := child(t, nobody, "connect", path).Output()
		if got := strings.TrimSpace(string(out)); err != nil || got != strconv.Itoa(int(want)) {
			t.Errorf("%s: %s, %v, want %d", path, got, err, want)
		}
	}
	// Abstract names have no mode, so connecting works and nothing comes of it.
	peers := echo(listen(t, abstract, plain()))
	out, err := child(t, nobody, "connect", abstract).Output()
	if err != nil || strings.TrimSpace(string(out)) != "0" {
		t.Errorf("%s: %s, %v", abstract, out, err)
	}
	converse(t, dial(t, unixName(abstract)), "own")
	if p := <-peers; p.Caller.UID != 0 {
		t.Errorf("uid %d was let in", p.Caller.UID)
	}
}

// A group lets in its supplementary members, by an abstract name as by a file.
func TestGroupOfCaller(t *testing.T) {
	needRoot(t)
	noDescriptorLeft(t)
	many := make([]uint32, 200) // more than one look takes
	for i := range many {
		many[i] = uint32(10000 + i)
	}
	for _, name := range []string{folder(t) + "/s", "@drvsock-group-" + strconv.Itoa(os.Getpid())} {
		l := listen(t, name, Options{Mode: 0o660, UID: -1, GID: 4321})
		peers := echo(l)
		for _, tt := range []struct {
			groups []uint32
			in     bool
		}{{nil, false}, {[]uint32{5555}, false}, {[]uint32{5555, 4321}, true}, {many, false}, {append([]uint32{4321}, many...), true}} {
			cmd := child(t, nobody, "knock", name)
			cmd.SysProcAttr.Credential.Groups = tt.groups
			out, err := cmd.Output()
			if got := strings.TrimSpace(string(out)); err != nil || got != strconv.FormatBool(tt.in) {
				t.Errorf("%s, member of %d groups: let in: %s, %v, want %v", name, len(tt.groups), got, err, tt.in)
			}
		}
		check(t, l.Close())
		for range peers {
		}
	}
}

// While sockets come up again and again, another user never gets in.
func TestNobodyBeforeTheMode(t *testing.T) {
	needRoot(t)
	noDescriptorLeft(t)
	dir := folder(t)
	path := dir + "/s"
	before := unix.Umask(0)
	defer unix.Umask(before)
	first, end := running(t, child(t, nobody, "storm", path))
	if first != "ready" {
		t.Fatal(first)
	}
	for begin := time.Now(); time.Since(begin) < time.Second; {
		l, err := Listen(unixName(path), Options{UID: -1, GID: 4321})
		check(t, err)
		check(t, l.Close())
	}
	if got := end(); got != "never" {
		t.Errorf("the other user is %s", got)
	}
}

func TestStale(t *testing.T) {
	needRoot(t)
	noDescriptorLeft(t)
	dir := folder(t)
	stale := func(name string, uid int) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/" + name})
		check(t, err)
		l.SetUnlinkOnClose(false)
		check(t, l.Close())
		check(t, os.Chown(dir+"/"+name, uid, -1))
	}
	stale("mine", -1)
	stale("kept", -1)
	stale("other", nobody)
	stale("given", nobody)
	check(t, os.WriteFile(dir+"/file", nil, 0o600))
	check(t, os.Mkdir(dir+"/dir", 0o700))
	stale("target", -1)
	check(t, os.Symlink("target", dir+"/link"))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(fd)
	check(t, unix.Bind(fd, &unix.SockaddrUnix{Name: dir + "/dgram"}))
	bound, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(bound)
	check(t, unix.Bind(bound, &unix.SockaddrUnix{Name: dir + "/bound"}))
	// An accepted socket has its listener's name, and outlives it.
	was, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/was"})
	check(t, err)
	was.SetUnlinkOnClose(false)
	client, err := net.Dial("unix", dir+"/was")
	check(t, err)
	defer client.Close()
	accepted, err := was.Accept()
	check(t, err)
	defer accepted.Close()
	check(t, was.Close())
	check(t, os.Chmod(dir, 0o777))
	live, end := running(t, child(t, nobody, "listen", dir+"/live"))
	if live != "<nil>" {
		t.Fatal(live)
	}
	defer end()
	tests := []struct {
		name string
		o    Options
		want errno.Errno
		says []string
	}{
		{"mine", Options{UID: -1, GID: -1, Replace: true}, 0, nil},
		{"kept", Options{UID: -1, GID: -1}, errno.EADDRINUSE, []string{"nobody listens"}},
		{"other", Options{UID: -1, GID: -1, Replace: true}, errno.EADDRINUSE, []string{"belongs to uid 65534"}},
		{"given", Options{UID: nobody, GID: -1, Replace: true}, 0, nil},
		{"file", Options{UID: -1, GID: -1, Replace: true}, errno.EADDRINUSE, []string{"no socket"}},
		{"dir", Options{UID: -1, GID: -1, Replace: true}, errno.EADDRINUSE, []string{"no socket"}},
		{"link", Options{UID: -1, GID: -1, Replace: true}, errno.EADDRINUSE, []string{"no socket"}},
		{"dgram", Options{UID: -1, GID: -1, Replace: true}, errno.EADDRINUSE, []string{"another type"}},
		{"bound", Options{UID: -1, GID: -1, Replace: true}, errno.EADDRINUSE, []string{"is bound to it"}},
		{"was", Options{UID: -1, GID: -1, Replace: true}, 0, nil},
		{"live", Options{UID: -1, GID: -1, Replace: true}, errno.EADDRINUSE, []string{"socket.test, process ", "of uid 65534, listens there"}},
		{"new", Options{UID: -1, GID: -1, Replace: true}, 0, nil},
		{"no/folder", Options{UID: -1, GID: -1, Replace: true}, errno.ENOENT, nil},
		{"file/x", Options{UID: -1, GID: -1, Replace: true}, errno.ENOTDIR, nil},
	}
	for _, tt := range tests {
		l, err := Listen(unixName(dir+"/"+tt.name), tt.o)
		if tt.want == 0 {
			check(t, err)
			peers := echo(l)
			converse(t, dial(t, unixName(dir+"/"+tt.name)), "x")
			check(t, l.Close())
			for range peers {
			}
			continue
		}
		refused(t, err, tt.want, tt.says...)
		if _, err := os.Lstat(dir + "/" + tt.name); tt.want == errno.EADDRINUSE && err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// A file that took the place of ours stays.
func TestCloseLeavesOthers(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	l := listen(t, dir+"/s", plain())
	check(t, os.Rename(dir+"/s", dir+"/moved"))
	other := listen(t, dir+"/s", plain())
	check(t, l.Close())
	for _, name := range []string{"/s", "/moved"} {
		if _, err := os.Lstat(dir + name); err != nil {
			t.Error(err)
		}
	}
	check(t, other.Close())
}

// The answers are those of the system itself.
func TestDialRefusals(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/stale"})
	check(t, err)
	l.SetUnlinkOnClose(false)
	check(t, l.Close())
	check(t, os.WriteFile(dir+"/file", nil, 0o600))
	for _, path := range []string{dir + "/none", dir + "/stale", dir + "/file", dir, dir + "/file/x", "@drvsock-nobody-has-this"} {
		_, err := Dial(t.Context(), unixName(path))
		refused(t, err, errno.Errno(connectNative(path)))
	}
	for _, n := range []wire.Network{wire.NetPipe, wire.NetPageant, 77} {
		_, err := Dial(t.Context(), endpoint.Name{Network: n, Path: `\\.\pipe\x`})
		refused(t, err, errno.EAFNOSUPPORT)
		_, err = Listen(endpoint.Name{Network: n, Path: `\\.\pipe\x`}, plain())
		refused(t, err, errno.EAFNOSUPPORT)
	}
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errno.ECANCELED)
	_, err = Dial(ended, unixName(dir+"/none"))
	refused(t, err, errno.ECANCELED)
}

// What is no path leads nowhere. The kernel would take what is before a NUL.
func TestNoPath(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	echo(listen(t, dir+"/live", plain()))
	for _, path := range []string{"relative", "", dir + "/live\x00more"} {
		c, err := Dial(t.Context(), unixName(path))
		refused(t, err, errno.EINVAL)
		if err == nil {
			_ = c.Close()
		}
	}
	_, err := Dial(t.Context(), unixName("@"+strings.Repeat("x", 108)))
	refused(t, err, errno.ENAMETOOLONG)
	for _, path := range []string{"relative", "", dir + "/", dir + "/new\x00more"} {
		_, err := Listen(unixName(path), plain())
		refused(t, err, errno.EINVAL)
	}
	if _, err := os.Lstat(dir + "/new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused listener's file: %v", err)
	}
}

// A full backlog is waited for, as long as the context lives.
func TestDialWaits(t *testing.T) {
	noDescriptorLeft(t)
	dir := folder(t)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(fd)
	check(t, unix.Bind(fd, &unix.SockaddrUnix{Name: dir + "/s"}))
	check(t, unix.Listen(fd, 0))
	first := dial(t, unixName(dir+"/s"))
	defer first.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = Dial(ctx, unixName(dir+"/s"))
	refused(t, err, errno.EAGAIN)
	_, err = Listen(unixName(dir+"/s"), Options{UID: -1, GID: -1, Replace: true})
	refused(t, err, errno.EADDRINUSE, "full backlog")
	got := make(chan Conn)
	go func() {
		c, err := Dial(t.Context(), unixName(dir+"/s"))
		if err != nil {
			t.Error(err)
		}
		got <- c
	}()
	time.Sleep(20 * time.Millisecond)
	a, _, err := unix.Accept(fd)
	check(t, err)
	defer unix.Close(a)
	if c := <-got; c != nil {
		_ = c.Close()
	}
}
