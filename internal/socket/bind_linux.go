package socket

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/afunix"
	"drvsock/internal/errno"
)

// binding is a socket's file under construction.
type binding struct {
	folder  int // of path
	base    string
	path    string
	options Options
}

func (b *binding) listen() (Listener, error) {
	l, err := b.attempt()
	if !errors.Is(err, unix.EADDRINUSE) {
		return l, err
	}
	switch in := b.occupant(); {
	case in.gone: // in the meantime
	case !in.stale || !b.options.Replace:
		return nil, taken(b.path, in)
	default:
		if err := remove(b.folder, b.base, in.id); err != nil {
			return nil, err
		}
	}
	if l, err = b.attempt(); errors.Is(err, unix.EADDRINUSE) {
		return nil, taken(b.path, b.occupant())
	}
	return l, err
}

// attempt binds, makes the file what the options say, and listens last, since
// from then on others can connect.
func (b *binding) attempt() (Listener, error) {
	fd, err := afunix.NewSocket()
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	began := time.Now()
	if err := b.bind(fd); err != nil {
		return nil, fmt.Errorf("bind %s: %w", b.path, err)
	}
	id, err := b.adjust(began)
	if err != nil {
		return nil, errors.Join(err, remove(b.folder, b.base, id))
	}
	l, err := start(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", b.path, err), remove(b.folder, b.base, id))
	}
	return &unixListener{l: l, addr: b.path, id: id, o: b.options}, nil
}

// bind makes the file, born with its mode and, where this process may, its
// owner: so nothing needs to be changed by a path that others can turn away.
func (b *binding) bind(fd int) error {
	return afunix.OnOwnThread(func() error {
		unix.Umask(int(^b.options.Mode.Perm() & 0o777))
		if err := afunix.TakeOwner(b.options.UID, b.options.GID); err != nil {
			return fmt.Errorf("take the owner: %w", err)
		}
		name := b.path
		if len(name) > afunix.MaxName {
			name = b.base
			if err := unix.Fchdir(b.folder); err != nil {
				return err
			}
		}
		return afunix.Bind(fd, name)
	})
}

// adjust makes sure of mode and owner. Some file systems and folders (a default
// ACL, the setgid bit) have their own mind about them, and only root can make
// files of other owners; a group may still be given by one of its members.
func (b *binding) adjust(began time.Time) (afunix.Identity, error) {
	target, err := unix.Openat(b.folder, b.base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return afunix.Identity{}, fmt.Errorf("look at %s: %w", b.path, err)
	}
	defer unix.Close(target)
	id, err := afunix.IdentifyFile(target)
	if err != nil {
		return afunix.Identity{}, fmt.Errorf("look at %s: %w", b.path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(target, &st); err != nil {
		return id, fmt.Errorf("look at %s: %w", b.path, err)
	}
	if b.fits(&st) {
		return id, nil
	}
	// Whoever can write to the folder may have put another socket of ours in its
	// place.
	if st.Nlink != 1 || int(st.Uid) != os.Geteuid() && int(st.Uid) != b.options.UID || id.Before(began) {
		return afunix.Identity{}, refuse(errno.EBUSY, "%s is not the socket that was made there", b.path)
	}
	if err := unix.Fchownat(target, "", b.options.UID, b.options.GID, unix.AT_EMPTY_PATH); err != nil {
		return id, fmt.Errorf("give %s to %d:%d: %w", b.path, b.options.UID, b.options.GID, err)
	}
	if err := unix.Chmod(afunix.MagicLink(target), uint32(b.options.Mode.Perm())); err != nil {
		return id, fmt.Errorf("mode of %s: %w", b.path, err)
	}
	if err := unix.Fstat(target, &st); err != nil {
		return id, fmt.Errorf("look at %s: %w", b.path, err)
	}
	if !b.fits(&st) {
		return id, refuse(errno.EPERM, "the file system keeps %s at mode %#o of %d:%d", b.path, st.Mode&0o777, st.Uid, st.Gid)
	}
	return id, nil
}

func (b *binding) fits(st *unix.Stat_t) bool {
	o := &b.options
	return st.Mode&0o7777 == uint32(o.Mode.Perm()) &&
		(o.UID < 0 || int(st.Uid) == o.UID) && (o.GID < 0 || int(st.Gid) == o.GID)
}

// An occupant is what has a name that is wanted.
type occupant struct {
	stale bool // a socket of ours on which nobody listens
	gone  bool // there is none
	id    afunix.Identity
	why   string
}

func taken(name string, in occupant) error {
	return refuse(errno.EADDRINUSE, "%s is taken: %s", name, in.why)
}

// occupant looks at the file that has the name.
func (b *binding) occupant() occupant {
	target, err := unix.Openat(b.folder, b.base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return occupant{gone: err == unix.ENOENT, why: err.Error()}
	}
	defer unix.Close(target)
	id, err := afunix.IdentifyFile(target)
	if err == unix.ENOTSOCK {
		return occupant{why: "it is no socket"}
	}
	var st unix.Stat_t
	if err := errors.Join(err, unix.Fstat(target, &st)); err != nil {
		return occupant{why: err.Error()}
	}
	in := livesAt(afunix.MagicLink(target))
	in.id = id
	if in.stale {
		// Its program may be about to listen. Where that can't be found out, as in
		// another network namespace, it is stale.
		if bound, err := diagBound(&st); err == nil && bound {
			in.stale, in.why = false, "a program's socket is bound to it, though it doesn't listen yet"
		}
	}
	if in.stale && int(st.Uid) != os.Geteuid() && int(st.Uid) != b.options.UID {
		in.stale = false
		in.why = fmt.Sprintf("it belongs to uid %d, though nobody listens there", st.Uid)
	}
	return in
}

// livesAt finds out who listens at a name, by connecting to it.
func livesAt(name string) occupant {
	fd, err := afunix.NewSocket()
	if err != nil {
		return occupant{why: err.Error()}
	}
	defer unix.Close(fd)
	switch err := afunix.Connect(fd, name); err {
	case nil:
		why := "somebody listens there"
		if cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil && cred.Pid > 0 {
			why = fmt.Sprintf("process %d of uid %d listens there", cred.Pid, cred.Uid)
			if program := programOf(uint32(cred.Pid)); program != "" {
				why = fmt.Sprintf("%s, process %d of uid %d, listens there", program, cred.Pid, cred.Uid)
			}
		}
		return occupant{why: why}
	case unix.EAGAIN:
		return occupant{why: "somebody listens there, with a full backlog"}
	case unix.ECONNREFUSED:
		return occupant{stale: true, why: "it is a socket on which nobody listens"}
	case unix.EPROTOTYPE:
		return occupant{why: "a socket of another type has it"}
	default:
		return occupant{why: fmt.Sprintf("whether somebody listens there can't be found out (%v)", err)}
	}
}
