package drive

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// A Location is where something lies for the kernel, however it was named: the
// mount that it was reached by and the path inside that mount's file system.
// Two names of one folder have one device and path, through bind mounts, chroots
// and mount namespaces.
type Location struct {
	Mount Mount
	Path  string // begins with '/', without empty, "." or ".." elements
}

// ErrUnknownMount says that a folder lies on a mount that the lookup function
// doesn't know, such as one that was detached, or one of another namespace.
var ErrUnknownMount = errors.New("unknown mount")

// Locate asks the kernel where the folder behind fd lies. fd may be O_PATH and
// stays the caller's. Anything but a folder is found only where it is the root of
// a mount. mounts returns the mount with an id (see [Mounts.Lookup]).
//
// The mount's root is found by its id, if need be by walking up from the folder,
// so the names of mounts, which can be stale, decide nothing. Linux 5.8 or newer.
//
// The error is ErrUnknownMount, or an *errno.Error with ENOENT for a deleted
// folder, ENAMETOOLONG for one whose path exceeds PATH_MAX (4096 bytes),
// ENOTDIR, or the errno of a call; on systems other than Linux it is
// errors.ErrUnsupported.
func Locate(fd int, mounts func(id uint64) (Mount, bool)) (Location, error) {
	return locate(fd, mounts)
}

// An Override says that the folder View is a drive of the host, whatever its
// file system.
type Override struct {
	Letter byte // 'A' to 'Z'
	View   string
}

// ParseOverride reads the form C=VIEW of the --drive flag.
func ParseOverride(s string) (Override, error) {
	letter, view, ok := strings.Cut(s, "=")
	if !ok || view == "" || len(letter) != 1 {
		return Override{}, fmt.Errorf("drive %q: not of the form LETTER=FOLDER", s)
	}
	l, ok := driveLetter(letter[0])
	if !ok {
		return Override{}, fmt.Errorf("drive %q: %q is no letter", s, letter)
	}
	return Override{Letter: l, View: view}, nil
}

// TableConfig says what a Table takes for a drive.
type TableConfig struct {
	// Overrides name folders that are drives. A letter that is named here is
	// seen there only: mounts of that drive count as ordinary folders. A letter
	// may have several folders.
	Overrides []Override
	// OverridesOnly leaves the mounts of WSL out altogether, for an agent that
	// stands in for the host.
	OverridesOnly bool
	// Readlink reads the links in /run/wsl/virtiofs; nil means os.Readlink.
	Readlink func(string) (string, error)
}

// A Table tells which locations are on a drive of the host. It doesn't change
// once made, and may be used by several goroutines.
type Table struct {
	views    []view // those with the longest path first
	letters  map[byte]bool
	only     bool
	readlink func(string) (string, error)
}

type view struct {
	letter       byte
	major, minor uint32
	path         string
}

// NewTable returns the Table for cfg. The folders of the overrides are located
// at once, in the caller's own namespace, and have to be there with all their
// mounts; what is renamed or mounted over them later isn't followed.
func NewTable(cfg TableConfig) (*Table, error) {
	t := &Table{letters: map[byte]bool{}, only: cfg.OverridesOnly, readlink: cfg.Readlink}
	if t.readlink == nil {
		t.readlink = os.Readlink
	}
	for _, o := range cfg.Overrides {
		letter, ok := driveLetter(o.Letter)
		if !ok {
			return nil, fmt.Errorf("drive %q: no letter", o.Letter)
		}
		loc, err := locateFolder(o.View)
		if err != nil {
			return nil, fmt.Errorf("drive %c at %s: %w", letter, o.View, err)
		}
		t.letters[letter] = true
		t.views = append(t.views, view{letter, loc.Mount.Major, loc.Mount.Minor, loc.Path})
	}
	slices.SortStableFunc(t.views, func(a, b view) int { return cmp.Compare(len(b.path), len(a.path)) })
	return t, nil
}

// Host returns the host path of loc, such as C:\dir, with its names escaped. ok
// is false if loc is on no drive. The path is the caller's.
func (t *Table) Host(loc Location) (path []byte, ok bool) {
	for _, v := range t.views {
		if v.major != loc.Mount.Major || v.minor != loc.Mount.Minor {
			continue
		}
		if rest, ok := below(v.path, loc.Path); ok {
			return JoinHost([]byte{v.letter, ':', '\\'}, []byte(rest)), true
		}
	}
	if t.only || !loc.Mount.candidate() {
		return nil, false
	}
	path, ok = loc.Mount.HostPath(loc.Path, t.readlink)
	if !ok || t.overridden(path) {
		return nil, false
	}
	return path, true
}

// maybe reports whether anything on m can be on a drive.
func (t *Table) maybe(m *Mount) bool {
	for _, v := range t.views {
		if v.major == m.Major && v.minor == m.Minor {
			return true
		}
	}
	return !t.only && m.candidate()
}

func (t *Table) overridden(host []byte) bool {
	if len(t.letters) == 0 || len(host) < 2 || host[1] != ':' {
		return false
	}
	letter, _ := driveLetter(host[0])
	return t.letters[letter]
}

// below returns what is left of path below folder, without a '/' in front.
func below(folder, path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, folder)
	if !ok {
		return "", false
	}
	if folder == "/" || rest == "" {
		return rest, true
	}
	return strings.CutPrefix(rest, "/")
}

// A Resolver answers, for the calls of programs, whether a folder is on a drive.
// It may be used by several goroutines.
type Resolver struct {
	table  *Table
	mounts *Mounts
}

// NewResolver returns a Resolver that asks table about mounts. It owns neither.
func NewResolver(table *Table, mounts *Mounts) *Resolver {
	return &Resolver{table: table, mounts: mounts}
}

// Resolve returns the host path of the folder behind fd, which may be O_PATH and
// stays the caller's; pid is the process that reached it, whose namespace knows
// its mount. ok is false if the folder is on no drive. Append a last element to
// the path with JoinHost.
//
// A folder on a mount that can't be a drive costs two system calls. Errors are
// those of Locate, except ErrUnknownMount, which means no drive, and only occur
// where a drive is possible; ENOENT (a deleted folder) is what bind(2) and
// connect(2) say there.
func (r *Resolver) Resolve(fd, pid int) (host []byte, ok bool, err error) {
	id, err := mountOf(fd)
	if err != nil {
		return nil, false, err
	}
	lookup := r.mounts.Of(pid)
	m, ok := lookup(id)
	if !ok || !r.table.maybe(&m) {
		return nil, false, nil
	}
	if m.Root != "/" {
		// Renaming a folder changes the Root of its bind mounts without a word,
		// so what is known of this one may be out of date.
		if err := r.mounts.Reload(); err != nil {
			return nil, false, err
		}
	}
	loc, err := Locate(fd, lookup)
	if err != nil {
		if errors.Is(err, ErrUnknownMount) {
			return nil, false, nil
		}
		return nil, false, fmt.Errorf("locate folder of process %d: %w", pid, err)
	}
	host, ok = r.table.Host(loc)
	return host, ok, nil
}
