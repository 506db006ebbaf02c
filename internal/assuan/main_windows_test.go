package assuan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/windows"

	"drvsock/internal/cygwin"
	"drvsock/internal/cygwin/portfile"
	"drvsock/internal/errno"
)

// The test binary also runs checks for the tests that run on Linux with Windows
// beside it, where testing's own folders can't be removed: "check FOLDER".
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "check" {
		if err := checkMain(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

type kind struct {
	name   string
	listen func(string, Options) (*Listener, error)
	dial   func(context.Context, string) (Conn, error)
	stale  string
	system bool
}

var kinds = []kind{
	{"assuan", Listen, Dial, "%d\n0123456789abcdef", false},
	{"cygwin", cygwin.Listen, func(ctx context.Context, path string) (Conn, error) { return cygwin.Dial(ctx, path) },
		"!<socket >%d s 03020100-07060504-0b0a0908-0f0e0d0c\x00", true},
}

// checkMain checks each kind in dir, and ends with one listener of each, which it
// names and keeps until its input ends.
func checkMain(dir string) error {
	for _, k := range kinds {
		if err := k.check(dir); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
	}
	for _, k := range kinds {
		l, err := k.listen(filepath.Join(dir, k.name), Options{})
		if err != nil {
			return err
		}
		defer l.Close()
		go func() {
			for {
				conn, _, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					_, _ = io.Copy(conn, conn)
				}()
			}
		}()
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

func (k kind) check(dir string) error {
	for _, name := range []string{"s", strings.Repeat("d", 100) + `\` + strings.Repeat("e", 100) + `\` + strings.Repeat("s", 100)} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			return err
		}
		if err := k.life(path); err != nil {
			return fmt.Errorf("%.30s: %w", name, err)
		}
	}
	if err := k.held(filepath.Join(dir, "held")); err != nil {
		return fmt.Errorf("held: %w", err)
	}
	// A stale one goes, another's file stays.
	path := filepath.Join(dir, "stale")
	gone, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	_ = gone.Close()
	for _, c := range []struct {
		text  string
		taken bool
	}{{fmt.Sprintf(k.stale, gone.Addr().(*net.TCPAddr).Port), false}, {"notes", true}} {
		if err := os.WriteFile(path, []byte(c.text), 0o666); err != nil {
			return err
		}
		l, err := k.listen(path, Options{})
		if c.taken != errors.Is(err, errno.EADDRINUSE) {
			return fmt.Errorf("over %q: %v", c.text, err)
		}
		if err == nil {
			_ = l.Close()
		}
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	if l, err := k.listen(dir, Options{}); !errors.Is(err, errno.EADDRINUSE) {
		return fmt.Errorf("over a folder: %v, %v", l, err)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".drvsock*"))
	if err != nil || len(left) > 0 {
		return fmt.Errorf("left over: %v, %v", left, err)
	}
	return nil
}

// held has the file open, as clients do, when its listener ends: for a moment by a
// handle that keeps it from being removed, and all along by ones that don't.
func (k kind) held(path string) error {
	l, err := k.listen(path, Options{})
	if err != nil {
		return err
	}
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return err
	}
	h, err := windows.CreateFile(name, windows.GENERIC_READ, windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE, nil, windows.OPEN_EXISTING, 0, 0)
	if err != nil {
		return err
	}
	if err := os.Remove(path); !errors.Is(err, windows.ERROR_SHARING_VIOLATION) {
		return fmt.Errorf("remove of a file that is held: %v", err)
	}
	time.AfterFunc(100*time.Millisecond, func() { _ = windows.CloseHandle(h) })
	reads := make(chan error, 1)
	go func() {
		for {
			if _, err := portfile.Read(context.Background(), path); err != nil {
				reads <- err
				return
			}
		}
	}()
	if err := l.Close(); err != nil {
		return err
	}
	if err := <-reads; !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read of nothing: %v", err)
	}
	return nil
}

func (k kind) life(path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	l, err := k.listen(path, Options{})
	if err != nil {
		return err
	}
	defer l.Close()
	name, err := windows.UTF16PtrFromString(`\\?\` + path)
	if err != nil {
		return err
	}
	attributes, err := windows.GetFileAttributes(name)
	if err != nil || (attributes&windows.FILE_ATTRIBUTE_SYSTEM != 0) != k.system {
		fmt.Printf("note: %s has attributes %#x, %v\n", k.name, attributes, err) // Wine may not keep it
	}
	sd, err := windows.GetNamedSecurityInfo(`\\?\`+path, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return err
	}
	fmt.Printf("note: %s has %v\n", k.name, sd)
	conn, err := k.dial(ctx, path)
	if err != nil {
		return err
	}
	defer conn.Close()
	server, _, err := l.Accept()
	if err != nil {
		return err
	}
	defer server.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	if b, err := io.ReadAll(server); !bytes.Equal(b, []byte("hello")) || err != nil {
		return fmt.Errorf("heard %q, %v", b, err)
	}
	if _, err := k.listen(path, Options{}); !errors.Is(err, errno.EADDRINUSE) {
		return fmt.Errorf("a second listener: %v", err)
	}
	if err := l.Close(); err != nil {
		return err
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("after the end the file is there: %v", err)
	}
	if _, err := portfile.Read(ctx, path); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read of nothing: %v", err)
	}
	return nil
}
