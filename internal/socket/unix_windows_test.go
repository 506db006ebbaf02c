package socket

import (
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/windows"

	"drvsock/internal/afunix"
	"drvsock/internal/endpoint"
	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// folder makes a folder. The tests remove their files by themselves, since
// os.RemoveAll doesn't work everywhere.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sck")
	check(t, err)
	t.Cleanup(func() { check(t, os.Remove(dir)) })
	return dir
}

func TestUnix(t *testing.T) {
	n := endpoint.Name{Path: folder(t) + `\s.sock`}
	l := listen(t, n, Options{Replace: true})
	peers := echo(l)
	converse(t, dial(t, n), strings.Repeat("text", 1<<18))
	// A stand-in for Winsock can't tell the process.
	if p := <-peers; p.Caller.PID != uint32(os.Getpid()) && !underWine {
		t.Errorf("caller %+v", p.Caller)
	}
	h, err := openItself(n.Path, windows.READ_CONTROL)
	check(t, err)
	sd, err := windows.GetSecurityInfo(h, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION|windows.OWNER_SECURITY_INFORMATION)
	check(t, err)
	check(t, windows.CloseHandle(h))
	own, err := ownSID()
	check(t, err)
	_, acl, _ := strings.Cut(sd.String(), "D:")
	if underWine { // keeps mode bits instead
		if strings.Contains(acl, ";;;WD)") {
			t.Errorf("others may connect: %s", acl)
		}
	} else if want := "PAI(A;;FA;;;" + own.String() + ")"; acl != want && acl != strings.Replace(want, "PAI", "P", 1) {
		t.Errorf("ACL %s, want %s", acl, want)
	}
	_, err = Listen(n, Options{Replace: true})
	refused(t, err, errno.EADDRINUSE, "listens there")
	check(t, l.Close())
	for range peers {
	}
	if _, err := os.Lstat(n.Path); !os.IsNotExist(err) {
		t.Errorf("file after Close: %v", err)
	}
	_, err = Dial(t.Context(), n)
	refused(t, err, errno.ENOENT)
}

func TestStale(t *testing.T) {
	dir := folder(t)
	stale := func(name string) endpoint.Name {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + name})
		check(t, err)
		l.SetUnlinkOnClose(false)
		check(t, l.Close())
		return endpoint.Name{Path: dir + name}
	}
	kept := stale(`\kept.sock`)
	_, err := Listen(kept, Options{})
	refused(t, err, errno.EADDRINUSE, "nobody listens")
	l := listen(t, kept, Options{Replace: true})
	peers := echo(l)
	converse(t, dial(t, kept), "x")
	check(t, l.Close())
	for range peers {
	}
	file := dir + `\file`
	check(t, os.WriteFile(file, nil, 0o600))
	_, err = Listen(endpoint.Name{Path: file}, Options{Replace: true})
	refused(t, err, errno.EADDRINUSE, "no socket")
	check(t, os.Remove(file))
	for path, want := range map[string]errno.Errno{dir + `\no\s.sock`: errno.ENOENT, dir + `\nul`: errno.EINVAL, `/tmp/x`: errno.EINVAL} {
		_, err = Listen(endpoint.Name{Path: path}, Options{Replace: true})
		refused(t, err, want)
	}
}

// A socket that takes a stale one's place while that is looked at stays, though
// nobody listens there yet.
func TestReplacedMeanwhile(t *testing.T) {
	n := endpoint.Name{Path: folder(t) + `\s.sock`}
	bind := func() windows.Handle {
		h, err := afunix.NewSocket()
		check(t, err)
		check(t, afunix.WithShort(n.Path, func(name string) error {
			return windows.Bind(h, &windows.SockaddrUnix{Name: name})
		}))
		return h
	}
	stale := bind()
	before := isSocket
	defer func() { isSocket = before }()
	var fresh windows.Handle
	isSocket = func(file string) bool {
		if fresh == 0 {
			// Closed after the other is made, so that the two can't have one identity.
			check(t, os.Rename(n.Path, n.Path+".old.sock"))
			fresh = bind()
			check(t, os.Remove(n.Path+".old.sock"))
			check(t, windows.Closesocket(stale))
		}
		return before(file)
	}
	if l, err := Listen(n, Options{Replace: true}); err == nil {
		check(t, l.Close())
		t.Error("the new socket's file is gone")
	} else {
		refused(t, err, errno.EADDRINUSE, "just now")
		check(t, os.Remove(n.Path))
	}
	check(t, windows.Closesocket(fresh))
}

// A file that took the place of ours stays.
func TestCloseLeavesOthers(t *testing.T) {
	n := endpoint.Name{Path: folder(t) + `\s.sock`}
	l := listen(t, n, Options{Replace: true})
	check(t, os.Remove(n.Path))
	check(t, os.WriteFile(n.Path, []byte("mine"), 0o600))
	check(t, l.Close())
	check(t, os.Remove(n.Path))
}

func TestTCP(t *testing.T) {
	n := endpoint.Name{Network: wire.NetTCP, Path: "127.0.0.1:0"}
	l := listen(t, n, Options{})
	peers := echo(l)
	n.Path = l.Addr()
	converse(t, dial(t, n), strings.Repeat("text", 1<<18))
	_, err := Listen(n, Options{})
	refused(t, err, errno.EADDRINUSE)
	check(t, l.Close())
	for range peers {
	}
	_, err = Dial(t.Context(), n)
	refused(t, err, errno.ECONNREFUSED)
}
