//go:build linux

package mount

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// TestSocketFile does to the file of a server's socket what can be done to a file,
// and has programs of three accounts connect, from the guest and from the host.
// The bare folder is both at once.
func TestSocketFile(t *testing.T) {
	f := newFolders(t, 0)
	want, got := socketFile(t, f.bare, f.bare), socketFile(t, f.view, f.beneath)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("in the folder (-) is not as in the view (+):\n%s", d)
	}
}

func socketFile(t *testing.T, guest, host string) []string {
	p := &posix{root: guest}
	try := func(name string) {
		for _, dir := range []string{guest, host} {
			for _, uid := range []uint32{0, rig.User, rig.Other} {
				p.note(fmt.Sprintf("%d connects to %s", uid, name), byThread(uid, func() error { return greeted(dir + "/" + name) }))
			}
			var st unix.Stat_t
			err := unix.Lstat(dir+"/"+name, &st)
			p.note("stat", err, fmt.Sprintf("%o", st.Mode), st.Uid, st.Gid, st.Nlink)
		}
	}
	bind := func(name string, uid uint32) {
		p.note(fmt.Sprintf("%d binds %s", uid, name), byThread(uid, func() error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Bind(fd, &unix.SockaddrUnix{Name: p.at(name)})
		}))
	}
	p.note("sticky", unix.Chmod(guest, 0o1777))
	l, err := net.Listen("unix", p.at("s"))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("x"))
			c.Close()
		}
	}()
	p.note("chmod", unix.Chmod(p.at("s"), 0o750))
	try("s")
	p.note("chmod", unix.Chmod(p.at("s"), 0o666))
	try("s")
	p.note("chown", errors.Join(unix.Chown(p.at("s"), rig.User, rig.User), unix.Chmod(p.at("s"), 0o600)))
	try("s")
	p.note("utimes", unix.UtimesNano(p.at("s"), []unix.Timespec{{Sec: 5}, {Sec: 6}}))
	p.note("rename", unix.Rename(p.at("s"), p.at("t")))
	try("s")
	try("t")
	p.note("move", errors.Join(unix.Mkdir(p.at("d"), 0o755), unix.Rename(p.at("t"), p.at("d/t")), unix.Rename(p.at("d"), p.at("e"))))
	try("e/t")
	p.note("link", unix.Link(p.at("e/t"), p.at("l")))
	p.note("unlink", unix.Unlink(p.at("e/t")))
	try("l")
	p.note("symlink", unix.Symlink("l", p.at("to")))
	try("to")
	bind("l", 0)
	bind("to", 0)
	for _, uid := range []uint32{rig.Other, rig.User} {
		p.note(fmt.Sprintf("%d removes", uid), byThread(uid, func() error { return unix.Unlink(p.at("l")) }))
	}
	try("l")
	bind("own", rig.Other)
	// That the program has closed it is seen a moment later.
	until(t, "the host is refused", func() bool { return errors.Is(greeted(host+"/own"), unix.ECONNREFUSED) })
	try("own")
	bind("own", rig.Other)
	p.note("close the folder", unix.Chmod(guest, 0o755))
	bind("no", rig.Other)
	_, err = unix.Open(p.at("own"), unix.O_RDWR, 0)
	p.note("open", err)
	p.note("truncate", unix.Truncate(p.at("own"), 0))
	p.note("connect to a folder", greeted(p.at("e")))
	p.note("connect below a socket", greeted(p.at("own/x")))
	return p.log
}

// greeted tells if a server at path says its byte.
func greeted(path string) error {
	c, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	_, err = c.Read(make([]byte, 1))
	return err
}
