package portfile

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"
)

// open opens path; that it is a file on a disk is known by its Stat. Unlike by
// os.Open, its listener can remove it meanwhile.
func open(path string) (*os.File, error) {
	name, err := windows.UTF16PtrFromString(extended(path))
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	h, err := windows.CreateFile(name, windows.GENERIC_READ, windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE|windows.FILE_SHARE_DELETE,
		nil, windows.OPEN_EXISTING, windows.FILE_ATTRIBUTE_NORMAL, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(h), path), nil
}

// sharing reports whether err says that another has the file to itself for now,
// as Cygwin has while it makes one (fhandler/socket_local.cc).
func sharing(err error) bool { return errors.Is(err, windows.ERROR_SHARING_VIOLATION) }

// write makes a file beside cfg.Path that holds text and returns its name. It is
// closed to others from its making on, not only after a change of its DACL.
func write(cfg *Config, text []byte) (string, error) {
	sddl := cfg.SDDL
	if sddl == "" {
		user, err := windows.GetCurrentProcessToken().GetTokenUser()
		if err != nil {
			return "", fmt.Errorf("account of this process: %w", err)
		}
		sddl = "D:P(A;;FA;;;" + user.User.Sid.String() + ")"
	}
	sd, err := windows.SecurityDescriptorFromString(sddl)
	if err != nil {
		return "", fmt.Errorf("security descriptor %s: %w", sddl, err)
	}
	sa := windows.SecurityAttributes{SecurityDescriptor: sd}
	sa.Length = uint32(unsafe.Sizeof(sa))
	attributes := uint32(windows.FILE_ATTRIBUTE_NORMAL)
	if cfg.System {
		// Cygwin takes no other file for a socket.
		attributes = windows.FILE_ATTRIBUTE_SYSTEM
	}
	var random [8]byte
	_, _ = rand.Read(random[:])
	temp := filepath.Join(filepath.Dir(cfg.Path), fmt.Sprintf(".drvsock-%x.tmp", random))
	name, err := windows.UTF16PtrFromString(extended(temp))
	if err != nil {
		return "", &os.PathError{Op: "create", Path: temp, Err: err}
	}
	h, err := windows.CreateFile(name, windows.GENERIC_WRITE, 0, &sa, windows.CREATE_NEW, attributes, 0)
	if err != nil {
		return "", &os.PathError{Op: "create", Path: temp, Err: err}
	}
	f := os.NewFile(uintptr(h), temp)
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(temp)
		return "", err
	}
	return temp, nil
}

// place gives the file temp the name path if that is free, else fs.ErrExist.
func place(temp, path string) error {
	from, err := windows.UTF16PtrFromString(extended(temp))
	if err != nil {
		return &os.PathError{Op: "rename", Path: temp, Err: err}
	}
	to, err := windows.UTF16PtrFromString(extended(path))
	if err != nil {
		return &os.PathError{Op: "rename", Path: path, Err: err}
	}
	err = windows.MoveFileEx(from, to, 0)
	if errors.Is(err, windows.ERROR_ALREADY_EXISTS) || errors.Is(err, windows.ERROR_FILE_EXISTS) {
		return fs.ErrExist
	}
	if err != nil {
		return &os.PathError{Op: "rename", Path: path, Err: err}
	}
	return nil
}

// removeIf removes the file at path if it holds text. Nobody else can open it
// between the look and the removal, which is by the same handle.
func removeIf(path string, text []byte) error {
	name, err := windows.UTF16PtrFromString(extended(path))
	if err != nil {
		return &os.PathError{Op: "remove", Path: path, Err: err}
	}
	h, err := windows.CreateFile(name, windows.GENERIC_READ|windows.DELETE, 0, nil, windows.OPEN_EXISTING, windows.FILE_FLAG_OPEN_REPARSE_POINT, 0)
	if sharing(err) {
		return nil // another looks at it
	}
	if err != nil {
		return &os.PathError{Op: "remove", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(h), path)
	defer f.Close()
	b := make([]byte, len(text)+1)
	if n, err := readFull(f, b); err != nil || !bytes.Equal(b[:n], text) {
		return err
	}
	remove := byte(1) // FILE_DISPOSITION_INFO
	if err := windows.SetFileInformationByHandle(h, windows.FileDispositionInfo, &remove, 1); err != nil {
		return &os.PathError{Op: "remove", Path: path, Err: err}
	}
	return nil
}

// extended returns a path on a drive in the form whose length isn't limited to
// MAX_PATH.
func extended(path string) string {
	if len(path) > 2 && path[1] == ':' && strings.ContainsAny(path[2:3], `\/`) {
		return `\\?\` + filepath.Clean(path)
	}
	return path
}

// stranger is not asked for on Windows: who may remove the file is for its folder's
// ACL to say.
func stranger(fs.FileInfo, string) string { return "" }

func exclusive(c syscall.RawConn) error {
	const soExclusive = ^windows.SO_REUSEADDR // SO_EXCLUSIVEADDRUSE of winsock2.h
	var inner error
	if err := c.Control(func(fd uintptr) {
		inner = windows.SetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, soExclusive, 1)
	}); err != nil {
		return err
	}
	return inner
}
