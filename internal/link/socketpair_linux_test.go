package link

import (
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

var socketPair = transport{"socketpair", func(tb testing.TB) (io.ReadWriteCloser, io.ReadWriteCloser) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	var c [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		if c[i], err = net.FileConn(f); err != nil {
			tb.Fatal(err)
		}
		_ = f.Close()
	}
	return c[0], c[1]
}}
