package standin

import (
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Options say which of DrvFS's manners to have. The zero value is a Windows
// drive as WSL 2 mounts it by default, over 9p and without metadata, on which
// the host's own owners and permissions are the ones shown.
type Options struct {
	// ShowSockets shows a socket of the host as S_IFSOCK. Otherwise it is a
	// regular file to stat, though not to getdents, as in microsoft/openvmm's
	// lxutil for a socket without $LXMOD. To connect there is no difference:
	// ECONNREFUSED, after the check of write permission.
	ShowSockets bool
	// Metadata is the mount option of that name: special files can be made, so
	// bind works between the programs of the guest, and sockets show as such.
	Metadata bool
	// Refusal is the error of mknod and bind without Metadata. 0 stands for
	// EOPNOTSUPP, which the 9p server gives; the virtiofs server gives EPERM.
	Refusal syscall.Errno
	// Fixed, if not nil, shows every file with one owner and mode, as uid=, gid=
	// and umask= do; chmod and chown then succeed without doing anything.
	Fixed *Fixed
	// EscapeNames shows the private-use characters that stand on a real Windows
	// file system for those that NTFS cannot hold as these characters. It is for
	// a folder that Windows programs work in, such as a drive of Wine.
	EscapeNames bool
	// Log takes what the file system has to say; nil discards it. Spawn's
	// process says it to standard error instead.
	Log *slog.Logger `json:"-"`
}

// Fixed is what every file of a view shows.
type Fixed struct {
	UID, GID uint32
	Umask    uint32 // permission bits that files and folders lack of 0777
}

// waitUsers bounds how long Unmount waits for the last user of a busy view.
const waitUsers = 5 * time.Second

// An FS is a mounted view. Its methods may be called from any goroutine.
type FS struct {
	view   string
	server *fuse.Server  // nil after Spawn
	served chan struct{} // closed when the server has ended
	child  *child        // nil after Mount

	once sync.Once
	err  error
}

// Mount shows the folder dir at the folder view until Unmount, served by
// goroutines of the calling process. It returns when the view can be used.
//
// Root mounts directly; another user needs fusermount3, and other users than
// this one are kept out unless /etc/fuse.conf has user_allow_other. Files made
// in the view belong to the calling program if this process is root's, else to
// this process's user. The kernel checks permissions by the mode and owner shown.
//
// The calling process must not start a program with its working folder or its
// executable in the view: between fork and exec the Go runtime cannot serve, and
// the child would wait for ever. [Spawn] has no such limit.
func Mount(dir, view string, opts Options) (*FS, error) {
	dir, view, err := folders(dir, view)
	if err != nil {
		return nil, err
	}
	root, err := newRoot(dir, opts)
	if err != nil {
		return nil, fmt.Errorf("stand-in for %s: %w", dir, err)
	}
	var none time.Duration // what the host changes must show at once
	o := &fs.Options{
		EntryTimeout: &none, AttrTimeout: &none, NegativeTimeout: &none,
		NullPermissions: true,
		Logger:          logger(opts.Log),
	}
	o.MountOptions = fuse.MountOptions{
		// Without it the kernel would leave permissions to this process.
		Options:     []string{"default_permissions"},
		AllowOther:  os.Geteuid() == 0 || allowOther(),
		DirectMount: os.Geteuid() == 0,
		FsName:      dir,
		Name:        "drvsock",
		Logger:      o.Logger,
		// READDIRPLUS would look names up by their escaped form.
		DisableReadDirPlus: true,
	}
	var raw fuse.RawFileSystem = fs.NewNodeFS(root, o)
	if opts.EscapeNames {
		raw = &escaped{raw}
	}
	server, err := fuse.NewServer(raw, view, &o.MountOptions)
	if err != nil {
		return nil, fmt.Errorf("mount of %s: %w", view, err)
	}
	f := &FS{view: view, server: server, served: make(chan struct{})}
	go func() {
		defer close(f.served)
		server.Serve()
	}()
	if err := server.WaitMount(); err != nil {
		return nil, errors.Join(fmt.Errorf("mount of %s: %w", view, err), f.Unmount())
	}
	return f, nil
}

// View returns the absolute path of the view.
func (f *FS) View() string { return f.view }

// Unmount takes the view away and returns when its server has ended. A view in
// use is detached, so that its path is free at once, and its users are waited
// for up to 5 seconds; after Spawn they then get ENOTCONN. Later calls return
// what the first one did.
func (f *FS) Unmount() error {
	f.once.Do(func() {
		if f.child != nil {
			f.err = f.child.stop()
			return
		}
		f.err = f.unmount()
	})
	return f.err
}

func (f *FS) unmount() error {
	select {
	case <-f.served:
		return nil // someone else took it away; the path may be another mount by now
	default:
	}
	// The library tries a busy view for a third of a second.
	if f.server.Unmount() != nil {
		if err := detach(f.view); err != nil {
			return fmt.Errorf("unmount of %s: %w", f.view, err)
		}
	}
	select {
	case <-f.served:
		return nil
	case <-time.After(waitUsers):
		return fmt.Errorf("unmount of %s: %w: detached, served until its last user ends", f.view, unix.EBUSY)
	}
}

// folders checks the two folders and makes their paths absolute. A view over
// its own folder would be served through itself.
func folders(dir, view string) (absDir, absView string, err error) {
	for _, p := range []*string{&dir, &view} {
		path, err := filepath.Abs(*p)
		if err == nil {
			path, err = filepath.EvalSymlinks(path)
		}
		if err != nil {
			return "", "", fmt.Errorf("stand-in: %w", err)
		}
		st, err := os.Stat(path)
		if err != nil {
			return "", "", fmt.Errorf("stand-in: %w", err)
		}
		if !st.IsDir() {
			return "", "", fmt.Errorf("stand-in: %s: %w", path, unix.ENOTDIR)
		}
		*p = path
	}
	if dir == view || strings.HasPrefix(dir, strings.TrimSuffix(view, "/")+"/") {
		return "", "", fmt.Errorf("stand-in: %s lies in its own view %s: %w", dir, view, unix.EINVAL)
	}
	return dir, view, nil
}

// allowOther reports whether /etc/fuse.conf lets users mount with allow_other;
// fusermount3 refuses the whole mount otherwise (fuse(8)).
func allowOther() bool {
	conf, err := os.ReadFile("/etc/fuse.conf")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(conf)) {
		if strings.TrimSpace(line) == "user_allow_other" {
			return true
		}
	}
	return false
}

func logger(l *slog.Logger) *log.Logger {
	if l == nil {
		l = slog.New(slog.DiscardHandler)
	}
	return slog.NewLogLogger(l.Handler(), slog.LevelWarn)
}
