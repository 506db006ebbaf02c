package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// block is the size of a bulk write and of a bulk read.
const block = 64 << 10

// services are the sockets of the server and what each does with a connection.
var services = map[string]func(fd int){
	"first":  first,
	"echo":   echo,
	"sink":   sink,
	"source": source,
	"hold":   hold,
}

// server listens on all services in dir, says so on stdout and ends with its
// stdin.
func server(dir string) error {
	for name, serve := range services {
		l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		path := filepath.Join(dir, name+".sock")
		if err := unix.Bind(l, &unix.SockaddrUnix{Name: path}); err != nil {
			return fmt.Errorf("bind %s: %w", path, err)
		}
		if err := unix.Listen(l, 4096); err != nil {
			return err
		}
		go accept(l, name == "sink" || name == "source", serve)
	}
	fmt.Println("ready")
	var b [1]byte
	_, _ = os.Stdin.Read(b[:])
	return nil
}

// accept serves connections one after the other, or each on its own thread.
func accept(l int, parallel bool, serve func(fd int)) {
	runtime.LockOSThread()
	for {
		fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
		if err == unix.EINTR || err == unix.ECONNABORTED {
			continue
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench: accept:", err)
			return
		}
		if !parallel {
			serve(fd)
			continue
		}
		go func() {
			runtime.LockOSThread()
			serve(fd)
		}()
	}
}

// first sends the first byte.
func first(fd int) {
	defer unix.Close(fd)
	_, _ = write(fd, []byte{1})
}

// echo sends back what comes.
func echo(fd int) {
	defer unix.Close(fd)
	var b [512]byte
	for {
		n, err := read(fd, b[:])
		if n == 0 || err != nil {
			return
		}
		if _, err := write(fd, b[:n]); err != nil {
			return
		}
	}
}

// sink reads to the end and tells how much came.
func sink(fd int) {
	defer unix.Close(fd)
	b := make([]byte, block)
	var sum uint64
	for {
		n, err := read(fd, b)
		if err != nil {
			return
		}
		if n == 0 {
			_, _ = write(fd, binary.BigEndian.AppendUint64(nil, sum))
			return
		}
		sum += uint64(n)
	}
}

// source sends as many bytes as the first eight say.
func source(fd int) {
	defer unix.Close(fd)
	b := make([]byte, block)
	if err := readFull(fd, b[:8]); err != nil {
		return
	}
	for left := binary.BigEndian.Uint64(b); left > 0; {
		n, err := write(fd, b[:min(left, block)])
		if err != nil {
			return
		}
		left -= uint64(n)
	}
}

// hold keeps the connection open and does nothing until the client closes it.
func hold(fd int) {
	ep, err := holders()
	if err == nil {
		err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLRDHUP, Fd: int32(fd)})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: hold:", err)
		_ = unix.Close(fd)
	}
}

// holders returns the epoll descriptor of those who are held, and has a thread
// close them.
var holders = sync.OnceValues(func() (int, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return -1, err
	}
	go func() {
		events := make([]unix.EpollEvent, 64)
		for {
			n, err := unix.EpollWait(ep, events, -1)
			if err != nil && err != unix.EINTR {
				fmt.Fprintln(os.Stderr, "bench: hold:", err)
				return
			}
			for _, e := range events[:max(n, 0)] {
				_ = unix.Close(int(e.Fd))
			}
		}
	}()
	return ep, nil
})

// read and write are the plain system calls, of which the runtime knows nothing:
// its monitor, which looks after calls that take longer than 20 us, would be
// measured too, and more with whoever is slower anyway.
func read(fd int, b []byte) (int, error) {
	for {
		n, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		switch e {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, e
		}
	}
}

func readFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := read(fd, b)
		if err != nil {
			return err
		}
		if n == 0 {
			return unix.ECONNRESET
		}
		b = b[n:]
	}
	return nil
}

// write writes all of b.
func write(fd int, b []byte) (int, error) {
	for done := 0; done < len(b); {
		n, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[done])), uintptr(len(b)-done),
			unix.MSG_NOSIGNAL, 0, 0)
		switch e {
		case 0:
			done += int(n)
		case unix.EINTR:
		default:
			return done, e
		}
	}
	return len(b), nil
}
