package demo

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
)

// These are plain system calls, so that what they print is the kernel's answer
// to bind, connect, getsockname and the like, and nothing that package net made
// of it.

// server listens, sends one greeting and ends.
func server(say *voice, _ []string) error {
	fd, err := socket()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := bindTo(fd, serverSocket); err != nil {
		return err
	}
	defer os.Remove(serverSocket)
	if err := unix.Listen(fd, 5); err != nil {
		return because("listen", err)
	}
	name, err := nameOf(fd, unix.SYS_GETSOCKNAME)
	if err != nil {
		return because("getsockname", err)
	}
	say.line("listening, getsockname says %s", name)
	// SO_RCVTIMEO bounds accept too (socket(7)).
	tv := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return because("setsockopt", err)
	}
	conn, name, err := accept(fd)
	if err != nil {
		return because("accept", err)
	}
	defer unix.Close(conn)
	say.line("accepted a client, its name is %s", name)
	n, err := unix.SendmsgN(conn, []byte(greeting), nil, nil, unix.MSG_NOSIGNAL)
	if err != nil {
		return because("send", err)
	}
	say.line("sent %d bytes", n)
	return nil
}

// client connects, under a name of its own if there is an argument, and reads
// to the end.
func client(say *voice, args []string) error {
	fd, err := socket()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if len(args) > 0 {
		if err := bindTo(fd, args[0]); err != nil {
			return err
		}
		defer os.Remove(args[0])
		name, err := nameOf(fd, unix.SYS_GETSOCKNAME)
		if err != nil {
			return because("getsockname", err)
		}
		say.line("bound, getsockname says %s", name)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: serverSocket}); err != nil {
		return because("connect "+serverSocket, err)
	}
	name, err := nameOf(fd, unix.SYS_GETPEERNAME)
	if err != nil {
		return because("getpeername", err)
	}
	say.line("connected, getpeername says %s", name)
	tv := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return because("setsockopt", err)
	}
	var got []byte
	buf := make([]byte, 512)
	for len(got) < 1<<16 {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return because("read", err)
		}
		if n == 0 {
			break
		}
		got = append(got, buf[:n]...)
	}
	say.line("received %d bytes: %s", len(got), got)
	return nil
}

// bind binds and ends.
func bind(say *voice, _ []string) error {
	fd, err := socket()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := bindTo(fd, bindSocket); err != nil {
		return err
	}
	defer os.Remove(bindSocket)
	name, err := nameOf(fd, unix.SYS_GETSOCKNAME)
	if err != nil {
		return because("getsockname", err)
	}
	say.line("bound, getsockname says %s", name)
	return nil
}

func socket() (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, because("socket", err)
	}
	return fd, nil
}

func bindTo(fd int, name string) error {
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		return because("bind "+name, err)
	}
	return nil
}

// because says an error in words and by its name, where package unix would take
// ENOTSUP for EOPNOTSUPP, which have one number.
func because(call string, err error) error {
	if e, ok := err.(unix.Errno); ok {
		return fmt.Errorf("%s: %w (%s)", call, err, errno.Errno(e))
	}
	return fmt.Errorf("%s: %w", call, err)
}

// nameOf prints what getsockname(2) or getpeername(2) stored, with the length
// that it gave: package unix would keep that to itself.
func nameOf(fd int, call uintptr) (string, error) {
	var a unix.RawSockaddrUnix
	size := uint32(unix.SizeofSockaddrUnix)
	_, _, e := unix.Syscall(call, uintptr(fd), uintptr(unsafe.Pointer(&a)), uintptr(unsafe.Pointer(&size)))
	if e != 0 {
		return "", e
	}
	return printed(&a, size), nil
}

func accept(fd int) (int, string, error) {
	for {
		var a unix.RawSockaddrUnix
		size := uint32(unix.SizeofSockaddrUnix)
		conn, _, e := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&a)),
			uintptr(unsafe.Pointer(&size)), unix.SOCK_CLOEXEC, 0, 0)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return -1, "", e
		}
		return int(conn), printed(&a, size), nil
	}
}

func printed(a *unix.RawSockaddrUnix, size uint32) string {
	path := unsafe.Slice((*byte)(unsafe.Pointer(&a.Path[0])), len(a.Path))
	if n := int(size) - 2; n < len(path) {
		path = path[:max(n, 0)]
	}
	path = bytes.TrimRight(path, "\x00")
	if len(path) == 0 {
		return fmt.Sprintf("empty (%d bytes)", size)
	}
	return fmt.Sprintf("%s (%d bytes)", strings.ToValidUTF8(string(path), "?"), size)
}
