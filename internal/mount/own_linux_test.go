package mount

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"drvsock/internal/link"
	"drvsock/internal/wire"
)

// TestOwn has another account bind a socket where new files are to be given to their
// makers, as on a drive of WSL that keeps owners, and where they are not.
func TestOwn(t *testing.T) {
	for own, want := range map[bool]string{false: "140750 0:0", true: "140750 59001:59002"} {
		t.Run(fmt.Sprint(own), func(t *testing.T) {
			beneath, at, _, _ := mounted(t, func(v *view) { v.opts.Own = own })
			for _, d := range []string{filepath.Dir(at), beneath} {
				if err := os.Chmod(d, 0o777); err != nil {
					t.Fatal(err)
				}
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			done := make(chan error, 1)
			onThread(func() {
				const keep = ^uintptr(0)
				if err := unix.Unshare(unix.CLONE_FS); err != nil {
					done <- err
					return
				}
				unix.Umask(0o027)
				if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, keep, 59002, keep); e != 0 {
					done <- e
					return
				}
				if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, keep, 59001, keep); e != 0 {
					done <- e
					return
				}
				done <- unix.Bind(fd, &unix.SockaddrUnix{Name: at + "/n"})
			})
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			for _, dir := range []string{beneath, at} {
				var st unix.Stat_t
				err := unix.Stat(dir+"/n", &st)
				if got := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid); err != nil || got != want {
					t.Errorf("in %s: %s, %v, want %s", dir, got, err, want)
				}
			}
			if err := unix.Listen(fd, 1); err != nil {
				t.Fatal(err)
			}
			until(t, "the host reaches it", func() bool {
				c, err := net.Dial("unix", beneath+"/n")
				if err == nil {
					c.Close()
				}
				return err == nil
			})
		})
	}
}

// swapping is a Host beneath whose feet somebody puts another file in the place of
// each socket that is made.
type swapping struct {
	*near
	swap func()
}

func (s swapping) Open(ctx context.Context, req wire.Request) (*link.Stream, wire.Answer, error) {
	st, ans, err := s.near.Open(ctx, req)
	if req.Kind == wire.KindBind && err == nil {
		s.swap()
	}
	return st, ans, err
}

// TestOwnSwapped has another account bind a socket in the place of which there is a
// file of root's by the time that it would be given to that account.
func TestOwnSwapped(t *testing.T) {
	for name, put := range map[string]func(string) error{
		"file":      func(p string) error { return os.WriteFile(p, []byte("secret"), 0o600) },
		"hard link": func(p string) error { return errors.Join(os.WriteFile(p+"2", nil, 0o600), os.Link(p+"2", p)) },
		"folder":    func(p string) error { return os.Mkdir(p, 0o700) },
		"link":      func(p string) error { return os.Symlink("x", p) },
	} {
		t.Run(name, func(t *testing.T) {
			var file atomic.Value // what is swapped, once that is known
			beneath, at, _, _ := mounted(t, func(v *view) {
				v.opts.Own = true
				v.opts.Host = swapping{v.opts.Host.(*near), func() {
					p := file.Load().(string)
					if err := errors.Join(os.Remove(p), put(p)); err != nil {
						t.Error(err)
					}
				}}
			})
			file.Store(beneath + "/n")
			for _, d := range []string{filepath.Dir(at), beneath} {
				if err := os.Chmod(d, 0o777); err != nil {
					t.Fatal(err)
				}
			}
			if err := bindAs(59001, at+"/n"); err != unix.EADDRINUSE {
				t.Errorf("bind: %v, want EADDRINUSE", err)
			}
			var st unix.Stat_t
			if err := unix.Lstat(beneath+"/n", &st); err != nil || st.Uid != 0 {
				t.Errorf("the file is %d's, %v, want 0", st.Uid, err)
			}
		})
	}
}

// bindAs binds a socket as another account and closes it.
func bindAs(uid uintptr, path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	done := make(chan error, 1)
	onThread(func() {
		const keep = ^uintptr(0)
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, keep, uid, keep); e != 0 {
			done <- e
			return
		}
		done <- unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	})
	return <-done
}
