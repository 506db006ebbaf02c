package mount

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// keeping is a folder, with one file, of a file system that takes any attribute of
// whom the kernel lets ask, as some do in their way.
type keeping struct {
	fs.Inode
	value atomic.Value // []byte of the one that there is
}

func (k *keeping) OnAdd(ctx context.Context) {
	if k.IsRoot() {
		k.AddChild("file", k.NewPersistentInode(ctx, &keeping{}, fs.StableAttr{Mode: unix.S_IFREG}), false)
	}
}

func (k *keeping) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = k.Mode() | 0o755
	return 0
}

func (k *keeping) Setxattr(_ context.Context, _ string, data []byte, _ uint32) syscall.Errno {
	k.value.Store(bytes.Clone(data))
	return 0
}

func (k *keeping) Getxattr(_ context.Context, _ string, dest []byte) (uint32, syscall.Errno) {
	b, _ := k.value.Load().([]byte)
	if b == nil {
		return 0, unix.ENODATA
	}
	return uint32(copy(dest, b)), 0
}

func (k *keeping) Removexattr(context.Context, string) syscall.Errno {
	k.value.Store([]byte(nil))
	return 0
}

// TestSystemAttributes has another user try what is in front of a view the file
// system's to refuse, and behind it root's to do.
func TestSystemAttributes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	beneath, at := t.TempDir(), t.TempDir()
	if err := os.Chmod(filepath.Dir(at), 0o755); err != nil {
		t.Fatal(err)
	}
	server, err := fs.Mount(beneath, &keeping{}, &fs.Options{MountOptions: fuse.MountOptions{AllowOther: true, DirectMountStrict: true}})
	if err != nil {
		t.Skip(err)
	}
	defer server.Unmount()
	m, err := Mount(at, Options{Host: newNear(t, t.TempDir()), HostPath: []byte(`C:\`), Beneath: beneath, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	const name = "system.secret"
	if err := unix.Setxattr(at+"/file", name, []byte("root's"), 0); err != nil {
		t.Fatalf("root sets it: %v", err)
	}
	done := make(chan error, 3)
	go func() {
		runtime.LockOSThread() // and the thread ends
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, 59001, 59001, 59001); e != 0 {
			t.Error(e)
		}
		_, err := unix.Getxattr(at+"/file", name, make([]byte, 9))
		done <- err
		done <- unix.Setxattr(at+"/file", name, []byte("another's"), 0)
		done <- unix.Removexattr(at+"/file", name)
	}()
	for _, what := range []string{"get", "set", "remove"} {
		if err := <-done; !errors.Is(err, unix.ENOTSUP) {
			t.Errorf("%s by another: %v, want ENOTSUP", what, err)
		}
	}
	b := make([]byte, 9)
	if n, err := unix.Getxattr(at+"/file", name, b); err != nil || string(b[:n]) != "root's" {
		t.Errorf("root gets %q, %v", b[:max(n, 0)], err)
	}
}
