package mount

import (
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"drvsock/internal/drive"
)

const (
	// lookPause is how often it is looked if somebody has unmounted the view.
	lookPause = 500 * time.Millisecond
	// usersFor is how long Close waits for programs that use the view.
	usersFor = 500 * time.Millisecond
	// abortFor is how long it waits after it has ended the connection to the
	// kernel.
	abortFor = 5 * time.Second
	// maxWrite is how many bytes the kernel hands over at once, and maxBackground how
	// many requests nobody waits for it may have open.
	maxWrite, maxBackground = 1 << 20, 64
)

// served is a view that is mounted.
type served struct {
	dir      string
	v        *view
	minor    uint32 // of the view's device: the connection's number in fusectl
	log      *slog.Logger
	done     chan struct{}
	quit     chan struct{}
	followed chan struct{} // closed when nobody looks any more if the view is mounted
	gone     atomic.Bool   // it is not

	unmounted chan struct{} // closed when gone is set
	once      sync.Once
	err       error
}

// testHook lets a test change a view before it is mounted.
var testHook func(*view)

func serve(dir string, o Options) (*served, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := repair(dir, o.Log); err != nil {
		return nil, err
	}
	err = alone(nil, func() (err error) {
		dir, err = filepath.EvalSymlinks(dir)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	beneath := o.Beneath
	if beneath == "" {
		beneath = dir
	}
	for _, d := range []string{dir, beneath} {
		if err := notWithin(d); err != nil {
			return nil, err
		}
	}
	v, flags, err := newView(beneath, o)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	if testHook != nil {
		testHook(v)
	}
	s := &served{dir: dir, v: v, log: o.Log, done: make(chan struct{}), quit: make(chan struct{}), followed: make(chan struct{}), unmounted: make(chan struct{})}
	if err := s.start(flags); err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	return s, nil
}

// manyFiles is the limit of descriptors that root gives itself: there is one for
// each folder and each socket that the kernel has in its caches, and two for each
// open file.
const manyFiles = 1 << 20 // fs.nr_open of every kernel that wasn't told otherwise

func raiseLimit() {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) == nil && l.Max < manyFiles {
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: manyFiles, Max: manyFiles})
	}
}

// mostHeld is how many descriptors may be in use for good, and what is left for
// files, connections and calls.
func mostHeld() (most, spare int) {
	const least = 64
	l := unix.Rlimit{Cur: manyFiles}
	_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &l)
	most = int(min(l.Cur, manyFiles))
	spare = max(most/8, least)
	return most - spare, spare
}

// newView opens the folder beneath. flags are those of the mount that it lies on.
func newView(beneath string, o Options) (_ *view, flags int64, err error) {
	fd, err := unix.Open(beneath, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("open %s: %w", beneath, err)
	}
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err = unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH); err == nil {
		err = unix.Fstatfs(fd, &fs)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, 0, err
	}
	nameless := &node{id: namelessID, kind: unix.S_IFSOCK, ino: ^uint64(2), fd: -1, refs: 1}
	root := &node{id: fuse.FUSE_ROOT_ID, kind: unix.S_IFDIR, fd: fd, users: 1, key: keyOf(&st), refs: 1}
	v := &view{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), log: o.Log, opts: o,
		uid: uint32(os.Geteuid()), dev: uint64(st.Dev),
		asks:  fs.Type == unix.V9FS_MAGIC || fs.Type == unix.FUSE_SUPER_MAGIC,
		maker: newMaker(os.Geteuid() == 0), hidden: newHidden(nameless),
		nodes: map[uint64]*node{root.id: root, nameless.id: nameless}, keys: map[key]*node{root.key: root}, folders: map[place]*node{}, lastID: namelessID,
		handles: map[uint64]*handle{}, dirs: map[uint64]*dirHandle{},
	}
	v.sockets = newSockets(v)
	if v.uid == 0 {
		raiseLimit()
	}
	v.most, v.spare = mostHeld()
	return v, int64(fs.Flags), nil
}

// Flags of statfs(2), which x/sys has for mount(2) alone.
const (
	stRdonly = 1
	stNosuid = 2
	stNodev  = 4
	stNoexec = 8
)

func (s *served) start(flags int64) error {
	v := s.v
	opts := &fuse.MountOptions{
		FsName: sourcePrefix + string(v.opts.HostPath), Name: subtype,
		Options:    []string{"default_permissions"},
		AllowOther: v.opts.AllowOther || v.uid == 0,
		MaxWrite:   maxWrite, MaxBackground: maxBackground,
		ExtraCapabilities: fuse.CAP_DONT_MASK,
		EnableAcl:         v.hasACL(),
		Logger:            log.New(&lines{v.log}, "", 0),
	}
	if v.uid == 0 {
		// What the folder beneath forbids, its view does: no more and no less.
		opts.DirectMountStrict = true
		opts.DirectMountFlags = unix.MS_MGC_VAL | uintptr(flags)&(stRdonly|stNosuid|stNodev|stNoexec)
	} else if flags&stRdonly != 0 {
		opts.Options = append(opts.Options, "ro")
	}
	server, err := fuse.NewServer(v, s.dir, opts)
	if err != nil {
		v.maker.close()
		v.release()
		return err
	}
	var sx unix.Statx_t
	if err := s.run(server, func() error { return v.hidden.open(s.dir, &sx) }, &sx); err != nil {
		_ = detach(s.dir)
		return err
	}
	go s.follow(sx.Mnt_id)
	return nil
}

// run begins to serve the view; open opens the hidden folder and asks for the
// attributes of the view's root.
func (s *served) run(server *fuse.Server, open func() error, sx *unix.Statx_t) error {
	v := s.v
	v.server = server
	go func() {
		server.Serve()
		v.sockets.close()
		v.hidden.close()
		v.maker.close()
		v.release()
		close(s.done)
	}()
	err := alone(nil, server.WaitMount)
	if err == nil {
		err = open()
	}
	if err != nil {
		return err
	}
	s.minor = sx.Dev_minor
	v.sockets.vfsDev = sx.Dev_major<<20 | sx.Dev_minor
	v.sockets.start()
	return nil
}

// lines passes on what the library has to say.
type lines struct{ log *slog.Logger }

func (l *lines) Write(b []byte) (int, error) {
	l.log.Warn("fuse", "said", strings.TrimSpace(string(b)))
	return len(b), nil
}

// hasACL tells if the file system beneath knows POSIX ACLs, which the kernel then
// has to ask for.
func (v *view) hasACL() bool {
	_, err := unix.Getxattr(procFD(v.root().fd), "system.posix_acl_access", nil)
	return err == nil || err == unix.ENODATA
}

// begin tells if a connection may begin: not when the view is going.
func (v *view) begin() bool {
	v.sockets.mu.Lock()
	defer v.sockets.mu.Unlock()
	return !v.sockets.over
}

// follow waits until the view is no longer mounted, whoever did that. What we
// have open in it would keep it alive; what others have does, until they let go.
func (s *served) follow(id uint64) {
	defer close(s.followed)
	m, err := drive.OpenMounts()
	if err != nil {
		s.log.Warn("mounts are not watched", "err", err)
		return
	}
	defer m.Close()
	t := time.NewTicker(lookPause)
	defer t.Stop()
	for {
		over := false
		select {
		case <-s.quit:
			over = true
		case <-s.done:
			over = true
		case <-t.C:
		}
		if _, ok := m.Lookup(id); !ok {
			s.gone.Store(true)
			close(s.unmounted)
			s.log.Info("unmounted", "dir", s.dir)
			s.v.sockets.close()
			s.v.hidden.close()
			return
		}
		if over {
			return
		}
	}
}

func (s *served) close() error {
	s.once.Do(func() {
		close(s.quit)
		<-s.followed
		s.v.sockets.close()
		s.v.hidden.close()
		if s.gone.Load() { // somebody has unmounted it; another mount may be there now
			if !s.wait(usersFor) && s.abort() {
				s.wait(abortFor)
			}
			return
		}
		if s.err = s.takeAway(); s.err != nil {
			return
		}
		if s.wait(usersFor) {
			return
		}
		if s.abort() && s.wait(abortFor) || s.wait(0) {
			return
		}
		// What is left is for the end of this process, which the kernel notices.
		s.log.Warn("the view is unmounted and still in use", "dir", s.dir)
	})
	return s.err
}

// takeAway unmounts the view, in time for those who use it to let go.
func (s *served) takeAway() error {
	if s.v.uid == 0 {
		err := unix.Unmount(s.dir, unix.UMOUNT_NOFOLLOW)
		if err == unix.EBUSY {
			time.Sleep(usersFor)
			err = unix.Unmount(s.dir, unix.UMOUNT_NOFOLLOW)
		}
		if err != unix.EBUSY {
			return err
		}
		s.log.Warn("programs that use the view lose it", "dir", s.dir)
		// Which ends the connection to the kernel, though the mount stays.
		_ = unix.Unmount(s.dir, unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW)
	}
	return detach(s.dir)
}

func (s *served) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-s.done:
		return true
	case <-t.C:
		return false
	}
}

// abort ends the connection to the kernel: everyone who uses the view gets
// ENOTCONN (fuse.txt, "Aborting a filesystem connection").
func (s *served) abort() bool {
	file := fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", s.minor)
	if err := os.WriteFile(file, []byte("1"), 0); err != nil {
		s.log.Debug("ending the connection to the kernel", "err", err)
		return false
	}
	return true
}

func (s *served) linkUp() { s.v.sockets.mendAll() }
