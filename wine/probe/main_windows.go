package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/windows"
)

// A check is one thing that the rig must do; dir is an empty folder.
type check struct {
	name string
	run  func(dir string) error
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "dial" {
		if err := dial(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 3 && os.Args[1] == "bind" {
		s, err := bound(os.Args[2])
		if err == nil {
			windows.Closesocket(s)
			os.Remove(os.Args[2])
		}
		var number syscall.Errno
		errors.As(err, &number)
		fmt.Println(uint32(number))
		return
	}
	bad := 0
	for _, c := range checks {
		dir, err := os.MkdirTemp("", "")
		if err == nil {
			err = within(10*time.Second, func() error { return c.run(dir) })
			empty(dir)
		}
		if err != nil {
			bad++
			fmt.Printf("FAIL %s: %v\n", c.name, err)
		} else {
			fmt.Printf("ok %s\n", c.name)
		}
	}
	if bad > 0 {
		os.Exit(1)
	}
}

// dial copies what the server at path says until it ends.
func dial(path string) error {
	c, err := net.DialTimeout("unix", path, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, c)
	return err
}

func within(d time.Duration, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(d):
		return fmt.Errorf("not done after %v", d)
	}
}

// empty removes dir file by file: os.RemoveAll fails in Wine 8.
func empty(dir string) {
	list, _ := os.ReadDir(dir)
	for _, e := range list {
		os.Remove(filepath.Join(dir, e.Name()))
	}
	os.Remove(dir)
}

var checks = []check{
	{"net listens and dials", netToNet},
	{"raw bind, later listen, FileListener", rawListener},
	{"bound socket that does not listen refuses", refuses},
	{"FileConn of a raw connected socket", rawConn},
	{"closing one duplicate leaves the other", duplicates},
	{"listen on one duplicate, accept on the other", listenLater},
	{"half-close each way", halfClose},
	{"file in use, stale file, no file", files},
	{"100 connections at once", many},
}

func socket() (windows.Handle, error) {
	return windows.WSASocket(windows.AF_UNIX, windows.SOCK_STREAM, 0, nil, 0,
		windows.WSA_FLAG_OVERLAPPED|windows.WSA_FLAG_NO_HANDLE_INHERIT)
}

func bound(path string) (windows.Handle, error) {
	s, err := socket()
	if err != nil {
		return 0, err
	}
	if err := windows.Bind(s, &windows.SockaddrUnix{Name: path}); err != nil {
		windows.Closesocket(s)
		return 0, err
	}
	return s, nil
}

// adopt makes package net's listener of a raw socket, as an agent does that must
// bind before it listens.
func adopt(s windows.Handle, name string) (net.Listener, error) {
	f := os.NewFile(uintptr(s), name)
	defer f.Close()
	return net.FileListener(f)
}

// echo accepts one connection and sends back what it gets.
func echo(l net.Listener) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.Copy(c, c)
	return err
}

func talk(c net.Conn) error {
	defer c.Close()
	for _, line := range []string{"hello", strings.Repeat("x", 100_000)} {
		go fmt.Fprintln(c, line)
		got, err := bufio.NewReaderSize(c, 1<<17).ReadString('\n')
		if err != nil {
			return err
		}
		if got != line+"\n" {
			return fmt.Errorf("%d bytes came back, %d were sent", len(got), len(line)+1)
		}
	}
	return nil
}

func both(l net.Listener, path string) error {
	served := make(chan error, 1)
	go func() { served <- echo(l) }()
	c, err := net.Dial("unix", path)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	if got := c.RemoteAddr().String(); got != path {
		return fmt.Errorf("connected to %q, want %q", got, path)
	}
	if err := talk(c); err != nil {
		return fmt.Errorf("talk: %w", err)
	}
	return <-served
}

func netToNet(dir string) error {
	path := filepath.Join(dir, "a.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	defer l.Close()
	return both(l, path)
}

func rawListener(dir string) error {
	path := filepath.Join(dir, "a.sock")
	s, err := bound(path)
	if err != nil {
		return err
	}
	if err := windows.Listen(s, 16); err != nil {
		return err
	}
	l, err := adopt(s, path)
	if err != nil {
		return fmt.Errorf("adopt: %w", err)
	}
	defer l.Close()
	if got := l.Addr().String(); got != path {
		return fmt.Errorf("listener at %q, want %q", got, path)
	}
	return errors.Join(both(l, path), both(l, path))
}

func refuses(dir string) error {
	path := filepath.Join(dir, "a.sock")
	s, err := bound(path)
	if err != nil {
		return err
	}
	defer windows.Closesocket(s)
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
	}
	return expect(err, windows.WSAECONNREFUSED)
}

func rawConn(dir string) error {
	path := filepath.Join(dir, "a.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	defer l.Close()
	go echo(l)
	s, err := socket()
	if err != nil {
		return err
	}
	if err := windows.Connect(s, &windows.SockaddrUnix{Name: path}); err != nil {
		windows.Closesocket(s)
		return err
	}
	f := os.NewFile(uintptr(s), path)
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("FileConn: %w", err)
	}
	if got := c.RemoteAddr().String(); got != path {
		return fmt.Errorf("connected to %q, want %q", got, path)
	}
	return talk(c)
}

// duplicate does what package net does with a handle that it is given.
func duplicate(s windows.Handle) (windows.Handle, error) {
	var info windows.WSAProtocolInfo
	if err := wsaDuplicateSocket(s, &info); err != nil {
		return 0, err
	}
	if info.AddressFamily != windows.AF_UNIX {
		return 0, fmt.Errorf("family of the duplicate is %d, want AF_UNIX", info.AddressFamily)
	}
	return windows.WSASocket(-1, -1, -1, &info, 0, windows.WSA_FLAG_OVERLAPPED|windows.WSA_FLAG_NO_HANDLE_INHERIT)
}

func duplicates(dir string) error {
	path := filepath.Join(dir, "a.sock")
	s, err := bound(path)
	if err != nil {
		return err
	}
	d, err := duplicate(s)
	if err != nil {
		return errors.Join(err, windows.Closesocket(s))
	}
	defer windows.Closesocket(d)
	if err := windows.Closesocket(s); err != nil {
		return err
	}
	name, err := windows.Getsockname(d)
	if err != nil {
		return fmt.Errorf("getsockname of the duplicate: %w", err)
	}
	if un, ok := name.(*windows.SockaddrUnix); !ok || un.Name != path {
		return fmt.Errorf("getsockname of the duplicate = %#v, want %q", name, path)
	}
	if err := windows.Listen(d, 4); err != nil {
		return err
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	return c.Close()
}

func listenLater(dir string) error {
	path := filepath.Join(dir, "a.sock")
	s, err := bound(path)
	if err != nil {
		return err
	}
	defer windows.Closesocket(s)
	l, err := func() (net.Listener, error) {
		d, err := duplicate(s)
		if err != nil {
			return nil, err
		}
		if err := windows.Listen(s, 4); err != nil {
			return nil, errors.Join(err, windows.Closesocket(d))
		}
		return adopt(d, path)
	}()
	if err != nil {
		return err
	}
	defer l.Close()
	return both(l, path)
}

func halfClose(dir string) error {
	path := filepath.Join(dir, "a.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer c.Close()
		in, err := io.ReadAll(c)
		if err == nil {
			_, err = fmt.Fprintf(c, "got %s", in)
		}
		served <- err
	}()
	c, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer c.Close()
	io.WriteString(c, "question")
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		return err
	}
	out, err := io.ReadAll(c)
	if err == nil && string(out) != "got question" {
		err = fmt.Errorf("answer is %q", out)
	}
	return errors.Join(err, <-served)
}

func files(dir string) error {
	path := filepath.Join(dir, "a.sock")
	s, err := bound(path)
	if err != nil {
		return err
	}
	_, err = bound(path)
	if err := expect(err, windows.WSAEADDRINUSE); err != nil {
		return fmt.Errorf("second bind: %w", err)
	}
	if err := windows.Closesocket(s); err != nil {
		return err
	}
	_, err = bound(path)
	if err := expect(err, windows.WSAEADDRINUSE); err != nil {
		return fmt.Errorf("bind over a stale file: %w", err)
	}
	_, err = net.Dial("unix", path)
	if err := expect(err, windows.WSAECONNREFUSED); err != nil {
		return fmt.Errorf("connect to a stale file: %w", err)
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	_, err = net.Dial("unix", path)
	if err := expect(err, windows.WSAECONNREFUSED); err != nil {
		return fmt.Errorf("connect to no file: %w", err)
	}
	return nil
}

func many(dir string) error {
	path := filepath.Join(dir, "a.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	defer l.Close()
	const n = 100
	var all sync.WaitGroup
	errs := make(chan error, 2*n)
	for range n {
		all.Go(func() { errs <- echo(l) })
		all.Go(func() {
			c, err := net.Dial("unix", path)
			if err == nil {
				err = talk(c)
			}
			errs <- err
		})
	}
	all.Wait()
	close(errs)
	var sum error
	for err := range errs {
		sum = errors.Join(sum, err)
	}
	return sum
}

func expect(err error, want syscall.Errno) error {
	if !errors.Is(err, want) {
		return fmt.Errorf("%v, want %v", err, want)
	}
	return nil
}
