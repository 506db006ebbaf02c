package afunix

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/windows"

	"drvsock/internal/errno"
)

// MaxName is the longest name of a socket in bytes of UTF-8: sun_path has 108
// (afunix.h), and Winsock wants a final NUL.
const MaxName = 107

// NewSocket returns a stream socket that no child inherits.
func NewSocket() (windows.Handle, error) {
	h, err := windows.WSASocket(windows.AF_UNIX, windows.SOCK_STREAM, 0, nil, 0,
		windows.WSA_FLAG_OVERLAPPED|windows.WSA_FLAG_NO_HANDLE_INHERIT)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	return h, nil
}

// Remove removes file itself, a checked path.
func Remove(file string) error {
	name, err := windows.UTF16PtrFromString(Extended(file))
	if err != nil {
		return fmt.Errorf("unlink %s: %w", file, err)
	}
	// DeleteFile removes the reparse point itself.
	if err := windows.DeleteFile(name); err != nil {
		return fmt.Errorf("unlink %s: %w", file, err)
	}
	return nil
}

// Refused makes the answer to a call on file that the system refused.
func Refused(op errno.Op, file string, err error) error {
	e := *errno.FromSystem(err, errno.LayerHost)
	if e.Layer == errno.LayerHost {
		e.Errno = errno.Refine(op, e.Errno, LookAt(file, KindOf))
	}
	return &e
}

// KindOf looks at a file itself.
func KindOf(file string) FileKind {
	st, err := os.Lstat(file)
	switch {
	case errors.Is(err, windows.ERROR_CANT_ACCESS_FILE):
		// A reparse point that could not be opened as such: afunix's is the
		// one that is met in practice (golang/go 33357).
		return KindSocket
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, windows.ERROR_DIRECTORY):
		return KindMissing
	case err != nil:
		return KindUnknown
	case st.IsDir():
		return KindFolder
	case st.Mode()&fs.ModeSocket != 0:
		return KindSocket
	case st.Mode()&(fs.ModeSymlink|fs.ModeIrregular) != 0:
		// A junction or link: what it leads to decides for a folder.
		if to, err := os.Stat(file); err == nil && to.IsDir() {
			return KindFolder
		}
	}
	return KindFile
}

// folderLock keeps changes of the process's working directory apart. Nothing
// else in the agent has relative paths.
var folderLock sync.Mutex

// WithShort calls fn with a name of at most MaxName bytes that means file: file
// itself, file with its folder in the 8.3 form, or the last element with its
// folder as the working directory.
func WithShort(file string, fn func(name string) error) error {
	if len(file) <= MaxName {
		return fn(file)
	}
	dir, base := splitLast(file)
	if short := shortPath(dir) + `\` + base; len(short) <= MaxName {
		return fn(short)
	}
	name := `.\` + base
	if len(name) > MaxName {
		return errno.Errorf(errno.ENAMETOOLONG, errno.LayerAgent, "%s: a socket's name has at most %d bytes", file, MaxName)
	}
	folderLock.Lock()
	defer folderLock.Unlock()
	before, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	defer func() { _ = os.Chdir(before) }() // held open, a folder cannot be removed
	return fn(name)
}
