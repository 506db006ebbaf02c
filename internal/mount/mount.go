// Package mount lays a file system over a folder of a drive, in which Unix
// sockets work: bind makes the host's socket, connect reaches it. Everything
// else passes through to the folder beneath. It needs FUSE and no wrapper around
// programs, so it also serves those that nobody here started.
//
// # Files
//
// A file of the view is a file of the folder beneath, held by an O_PATH
// descriptor for as long as the kernel knows it, so renaming beneath and removing
// don't confuse the two. The kernel checks permissions (default_permissions) by
// what the file beneath has. Where it can (Linux 6.9, CAP_SYS_ADMIN) it also
// moves a file's bytes without us. Locks are the kernel's own: they hold between
// programs that use the view, and are not seen beneath.
//
// # Sockets of the guest's programs
//
// bind(2) arrives as MKNOD with the caller's ids. The agent makes the host's
// socket, whose file beneath becomes the file of the view, and the program's own
// socket is bound to that in the kernel. Connections within the guest are
// therefore native, see [unix(7)]. That the program listens, and later that it
// closed the socket, is learnt from sock_diag(7) a moment after the fact: there
// is no call of a file system in either. So that no host program is refused by a
// server that has just begun to listen, the host's socket listens from bind on; a
// host program that comes before listen(2) waits, and is turned away in the end
// if that doesn't follow. Options.ListenLate has it the other way round.
//
// # Sockets of the host's programs
//
// They are sockets of the view on which this process listens, under a second
// name that no other process can reach. connect(2) looks the file up before it
// connects, and as /proc tells that the task waits in that call, the agent is
// asked for the connection then: its refusal is the lookup's and so connect's.
//
// [unix(7)]: https://man7.org/linux/man-pages/man7/unix.7.html
package mount

import (
	"context"
	"errors"
	"log/slog"

	"drvsock/internal/link"
	"drvsock/internal/wire"
)

// A Host is the link to one agent, kept alive by somebody else.
type Host interface {
	// Open asks the agent for a stream, on the link of the moment. It starts a
	// link or waits for one as long as ctx allows, or fails at once where that
	// makes no sense. The error is an *errno.Error, or wraps ctx's.
	Open(ctx context.Context, req wire.Request) (*link.Stream, wire.Answer, error)
	// Route has the agent's connections for the handle s, the stream of a
	// KindBind, given to accepted, each in a goroutine of its own, until s is
	// over.
	Route(s *link.Stream, accepted func(*link.Incoming))
}

// Options say what is mounted.
type Options struct {
	Host Host
	// HostPath is what the host calls the folder, such as C:\tmp.
	HostPath []byte
	// Beneath is the folder that is shown; empty for the one that is mounted
	// over.
	Beneath string
	// Own says that a new socket's file is given to the user and group of its
	// maker, as is right where the folder beneath keeps owners of its own for the
	// host's files (DrvFS with metadata). Without it the file belongs to whom the
	// agent's system says.
	Own bool
	// ListenLate has the host's socket listen only after the program's was seen to.
	// Host programs that come before that are refused as they would be by one
	// system, but so are those that come in the moment until it is seen.
	ListenLate bool
	// AllowOther opens the view to other accounts. Root always does so; for
	// another user /etc/fuse.conf has to permit it.
	AllowOther bool
	// OneAccount says that the view is mounted in a user namespace that knows this
	// process's user and group alone. The kernel lets nobody write to what belongs to
	// others there, whatever its mode, so files of others show as this user's own,
	// with the rights to them that he has.
	OneAccount bool
	Log        *slog.Logger // nil discards
}

// ErrMounted says that a folder has a view already, one that is alive, or lies in
// one.
var ErrMounted = errors.New("mounted already")

// ErrNotMounted says that no view is mounted at a folder.
var ErrNotMounted = errors.New("no drvsock mount")

// A Mounted is a view that this process serves.
type Mounted struct{ *served }

// Mount lays a view over dir, which must be a folder, and serves it. A view whose
// process has died is taken away first. The caller's program must not need the
// view to run: it may use it, but never start a program in it or from it.
func Mount(dir string, o Options) (*Mounted, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s, err := serve(dir, o)
	if err != nil {
		return nil, err
	}
	return &Mounted{s}, nil
}

// Close takes the view away. Programs that still use it keep what they have open
// for a moment, and get ENOTCONN from then on. The files of bound sockets stay, as
// an operating system leaves them. It may be called more than once.
func (m *Mounted) Close() error { return m.close() }

// Done is closed when the view is no longer served, whoever took it away.
func (m *Mounted) Done() <-chan struct{} { return m.done }

// Unmounted is closed when somebody has taken the view away from here. It may be
// served for longer: to whom has something open in it, and in mount namespaces
// that have a copy of the mount.
func (m *Mounted) Unmounted() <-chan struct{} { return m.unmounted }

// LinkUp has the sockets that were bound in the view made anew on the host. It is
// to be called after each new link, and returns at once.
func (m *Mounted) LinkUp() { m.linkUp() }

// An Entry is a view in the mount table.
type Entry struct {
	Dir      string `json:"dir"`
	HostPath string `json:"host_path"`
	// Dead is true where nobody serves the view any more.
	Dead bool `json:"dead,omitempty"`
}

// List returns the views that this process's mount table has, whoever serves
// them.
func List() ([]Entry, error) { return list() }

// Repair takes views at dir away whose process has died, as Mount does. Nothing
// can be asked about a folder as long as it has such a one.
func Repair(dir string, log *slog.Logger) error { return repair(dir, log) }

// Unmount takes the view at dir away, dead or alive. Whoever uses it keeps what
// is open; the process that serves it ends when the last one is gone. The error
// wraps ErrNotMounted if there is none.
func Unmount(dir string) error { return unmount(dir) }
