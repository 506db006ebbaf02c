package mount

import (
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A Given is a view that another process has mounted, in a mount namespace of its
// own: its connection to the kernel, and its root by an O_PATH descriptor.
type Given struct{ Conn, Root int }

// ServeGiven serves a view that somebody else has mounted, with the options of
// GivenData and at any place. It takes both descriptors over, also on error. What
// is shown is o.Beneath, which must be named.
//
// Close does not unmount: the mount ends with its namespace.
func ServeGiven(g Given, o Options) (*Mounted, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	fail := func(err error) (*Mounted, error) {
		_, _ = unix.Close(g.Conn), unix.Close(g.Root)
		return nil, fmt.Errorf("serve the view of %s: %w", o.Beneath, err)
	}
	if o.Beneath == "" {
		return fail(errors.New("the folder beneath is not named"))
	}
	v, _, err := newView(o.Beneath, o)
	if err != nil {
		return fail(err)
	}
	s := &served{dir: o.Beneath, v: v, log: o.Log, done: make(chan struct{}), quit: make(chan struct{}), followed: make(chan struct{}), unmounted: make(chan struct{})}
	close(s.followed) // nobody unmounts it but by leaving it
	s.gone.Store(true)
	server, err := fuse.NewServer(v, fmt.Sprintf("/dev/fd/%d", g.Conn), &fuse.MountOptions{
		Name: subtype, MaxWrite: maxWrite, MaxBackground: maxBackground,
		ExtraCapabilities: fuse.CAP_DONT_MASK, EnableAcl: !o.OneAccount && v.hasACL(),
		Logger: log.New(&lines{v.log}, "", 0),
	})
	if err != nil {
		v.maker.close()
		v.release()
		_ = unix.Close(g.Root)
		return nil, err
	}
	var sx unix.Statx_t
	if err := s.run(server, func() error { return v.hidden.openGiven(g.Root, &sx) }, &sx); err != nil {
		_ = s.close()
		return nil, fmt.Errorf("serve the view of %s: %w", o.Beneath, err)
	}
	return &Mounted{s}, nil
}

// GivenData is what mount(2) is told of a view whose connection to the kernel has
// the descriptor conn, and which others than the caller may use if others is set.
func GivenData(conn int, others bool) (source func(hostPath string) string, fstype, data string) {
	data = fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,max_read=%d,default_permissions",
		conn, unix.S_IFDIR, os.Geteuid(), os.Getegid(), maxWrite)
	if others {
		data += ",allow_other"
	}
	return func(hostPath string) string { return sourcePrefix + hostPath }, fsType, data
}

// openGiven is open for a view that is reached by its root, which it takes over.
func (h *hidden) openGiven(root int, sx *unix.Statx_t) error {
	err := alone(nil, func() error {
		return unix.Statx(root, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, sx)
	}, root)
	fd := -1
	if err == nil {
		fd, err = openAlone(root, h.name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.name, h.tree, h.fd = "", root, fd
	return err
}

// show is how the kernel is told of a file's mode and owner, see
// Options.OneAccount. What a program then does is done with this user's rights,
// so the system beneath has the last word.
func (v *view) show(mode uint32, o fuse.Owner) (uint32, fuse.Owner) {
	if !v.opts.OneAccount {
		return mode, o
	}
	own := fuse.Owner{Uid: v.uid, Gid: uint32(os.Getegid())}
	if o.Uid != own.Uid {
		rights := mode & 7
		if o.Gid == own.Gid || slices.Contains(ownGroups(), int(o.Gid)) {
			rights = mode >> 3 & 7
		}
		mode = mode&^0o700 | rights<<6
	}
	return mode, own
}

// ownGroups are the supplementary groups, which don't change.
var ownGroups = sync.OnceValue(func() []int {
	g, _ := os.Getgroups()
	return g
})

// busy counts a connection until the function that it returns is called.
func (v *view) busy() func() {
	v.joins.Add(1)
	return func() { v.joins.Add(-1) }
}

// idlePause is how often Idle looks.
const idlePause = 2 * time.Millisecond

// Idle waits until no connection with a host program is open or being made, at
// most limit, and tells if that is so.
func (m *Mounted) Idle(limit time.Duration) bool {
	for end := time.Now().Add(limit); ; time.Sleep(idlePause) {
		if m.v.joins.Load() == 0 && !m.v.sockets.offering() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// offering tells if some connection waits for the program that asked for it.
func (s *sockets) offering() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for m := range s.mets {
		m.mu.Lock()
		n := len(m.offers)
		m.mu.Unlock()
		if n > 0 {
			return true
		}
	}
	return false
}
