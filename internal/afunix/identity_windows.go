package afunix

import (
	"fmt"
	"strings"

	"golang.org/x/sys/windows"
)

// An Identity tells a file from a later one of the same name. The index alone is
// enough on NTFS, where it counts its uses; the time of creation is for other
// file systems. It is not enough by itself: NTFS gives a new file the time of
// one of the same name that was removed within 15 seconds ("tunneling").
type Identity struct {
	volume uint32
	index  uint64
	birth  windows.Filetime
}

// Identify returns the identity of file, a checked path.
func Identify(file string) (Identity, error) {
	name, err := windows.UTF16PtrFromString(Extended(file))
	if err != nil {
		return Identity{}, fmt.Errorf("identity of %s: %w", file, err)
	}
	// A socket's file is a reparse point, which opens only as such.
	h, err := windows.CreateFile(name, windows.FILE_READ_ATTRIBUTES,
		windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE|windows.FILE_SHARE_DELETE, nil, windows.OPEN_EXISTING,
		windows.FILE_FLAG_OPEN_REPARSE_POINT|windows.FILE_FLAG_BACKUP_SEMANTICS, 0)
	if err != nil {
		return Identity{}, fmt.Errorf("identity of %s: %w", file, err)
	}
	defer windows.CloseHandle(h)
	var info windows.ByHandleFileInformation
	if err := windows.GetFileInformationByHandle(h, &info); err != nil {
		return Identity{}, fmt.Errorf("identity of %s: %w", file, err)
	}
	return Identity{
		volume: info.VolumeSerialNumber,
		index:  uint64(info.FileIndexHigh)<<32 | uint64(info.FileIndexLow),
		birth:  info.CreationTime,
	}, nil
}

// Extended returns file in the form whose length isn't limited to MAX_PATH. The
// path has been checked, so the form changes nothing else.
func Extended(file string) string {
	if rest, ok := strings.CutPrefix(file, `\\`); ok {
		return `\\?\UNC\` + rest
	}
	return `\\?\` + file
}

// shortPath returns dir with its names in the 8.3 form where they have one.
func shortPath(dir string) string {
	long, err := windows.UTF16PtrFromString(Extended(dir))
	if err != nil {
		return dir
	}
	buf := make([]uint16, windows.MAX_LONG_PATH)
	n, err := windows.GetShortPathName(long, &buf[0], uint32(len(buf)))
	if err != nil || n == 0 || int(n) > len(buf) {
		return dir
	}
	short := windows.UTF16ToString(buf[:n])
	if rest, ok := strings.CutPrefix(short, `\\?\UNC\`); ok {
		return `\\` + rest
	}
	return strings.TrimPrefix(short, `\\?\`)
}

func splitLast(file string) (dir, base string) {
	i := strings.LastIndexByte(file, '\\')
	return file[:i], file[i+1:]
}
