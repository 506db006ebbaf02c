package cli

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// stdio takes stdin and stdout for a link and leaves the null device in their
// place: their numbers must not become those of connections, which a stray
// print would then write to.
func stdio() (in, out *os.File, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	defer null.Close()
	if in, err = taken(os.Stdin, null); err != nil {
		return nil, nil, err
	}
	if out, err = taken(os.Stdout, null); err != nil {
		_ = in.Close()
		return nil, nil, err
	}
	return in, out, nil
}

// terminal tells whether a person may sit at f.
func terminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

func taken(f, null *os.File) (*os.File, error) {
	std := int(f.Fd())
	fd, err := unix.FcntlInt(uintptr(std), unix.F_DUPFD_CLOEXEC, 3)
	if err == nil {
		err = unix.Dup3(int(null.Fd()), std, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("take %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
