package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// within bounds every connection that has an end of its own.
const within = 40 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return errors.New("usage: peer echo|answer|first|post|get|swarm|ask|after|hold PATH [N BYTES]")
	}
	path := args[1]
	switch args[0] {
	case "echo":
		return serve(path, echo)
	case "answer":
		return serve(path, answer)
	case "first":
		return serve(path, first)
	case "post":
		return post(path)
	case "get":
		return get(path)
	case "ask":
		return talk(path, ask)
	case "after":
		return talk(path, after)
	case "hold":
		return hold(path)
	case "swarm":
		var n [2]int
		for i := range n {
			if len(args) != 4 {
				return errors.New("usage: peer swarm PATH N BYTES")
			}
			var err error
			if n[i], err = strconv.Atoi(args[2+i]); err != nil {
				return err
			}
		}
		return swarm(path, n[0], n[1])
	}
	return fmt.Errorf("%q is no part to play", args[0])
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// sum describes bytes so that both ends can be compared.
func sum(b []byte) string { return fmt.Sprintf("%d bytes %x", len(b), sha256.Sum256(b)) }

// noise gives bytes that are the same for the same seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b) // it never fails
	return b
}

// A conn is a connection with a half-close.
type conn interface {
	net.Conn
	CloseWrite() error
}

func isPipe(path string) bool { return strings.HasPrefix(path, `\\.\pipe\`) }

func dial(path string) (conn, error) {
	if isPipe(path) {
		return dialPipe(path)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	return c.(conn), nil
}

func listen(path string) (net.Listener, error) {
	if isPipe(path) {
		return listenPipe(path)
	}
	return net.Listen("unix", path)
}

// serve plays part on every connection until stdin ends. It removes the file.
func serve(path string, part func(conn) error) error {
	l, err := listen(path)
	if err != nil {
		return err
	}
	say("listening")
	ends := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ends)
		_ = l.Close()
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			select {
			case <-ends:
				return nil
			default:
				return err
			}
		}
		go func() {
			defer c.Close()
			if err := part(c.(conn)); err != nil {
				say("connection: %v", err)
			}
		}()
	}
}

// echo sends back what it gets, and its end.
func echo(c conn) error {
	// Not io.Copy, which on Linux would splice.
	b := make([]byte, 64<<10)
	for {
		n, err := c.Read(b)
		if _, werr := c.Write(b[:n]); werr != nil {
			return werr
		}
		if err == io.EOF {
			return c.CloseWrite()
		}
		if err != nil {
			return err
		}
	}
}

// answer says what it got when it has all of it.
func answer(c conn) error {
	b, err := io.ReadAll(c)
	if err == nil {
		_, err = io.WriteString(c, sum(b))
	}
	return err
}

// ask is answer's client: its own direction is closed when the answer comes.
func ask(c conn) error {
	b := noise(1, 1<<20)
	if _, err := c.Write(b); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err == nil && string(got) != sum(b) {
		err = fmt.Errorf("sent %s, the server got %s", sum(b), got)
	}
	return err
}

// first closes its own direction before it reads.
func first(c conn) error {
	if _, err := c.Write(noise(2, 1<<20)); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	b, err := io.ReadAll(c)
	if err == nil {
		say("got %s", sum(b))
	}
	return err
}

// after is first's client: it writes when the server has closed its direction.
func after(c conn) error {
	b, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	if want := noise(2, 1<<20); !bytes.Equal(b, want) {
		return fmt.Errorf("got %s, want %s", sum(b), sum(want))
	}
	b = noise(3, 1<<20)
	if _, err := c.Write(b); err != nil {
		return err
	}
	say("sent %s", sum(b))
	return c.CloseWrite()
}

func talk(path string, part func(conn) error) error {
	c, err := dial(path)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	if err := part(c); err != nil {
		return err
	}
	say("done")
	return nil
}

// get prints what the server sends.
func get(path string) error {
	c, err := dial(path)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, c)
	return err
}

// swarm opens n connections to an echo and, when it has them all, sends size
// bytes on each and compares what comes back at the same time.
func swarm(path string, n, size int) error {
	conns := make([]conn, n)
	errs := make([]error, n)
	each := func(part func(i int) error) error {
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { errs[i] = part(i) })
		}
		wg.Wait()
		return errors.Join(errs...)
	}
	err := each(func(i int) (err error) {
		conns[i], err = dial(path)
		return err
	})
	if err == nil {
		err = each(func(i int) error { return thereAndBack(conns[i], noise(uint64(i), size)) })
	}
	for _, c := range conns {
		if c != nil {
			_ = c.Close()
		}
	}
	if err != nil {
		return err
	}
	say("%d connections, %d bytes each way on each", n, size)
	return nil
}

func thereAndBack(c conn, b []byte) error {
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(b)
		sent <- errors.Join(err, c.CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err := errors.Join(err, <-sent); err != nil {
		return err
	}
	if !bytes.Equal(got, b) {
		return fmt.Errorf("sent %s, %s came back", sum(b), sum(got))
	}
	return nil
}

// hold keeps both directions of a connection to an echo full until it fails.
func hold(path string) error {
	c, err := dial(path)
	if err != nil {
		return err
	}
	defer c.Close()
	wrote := make(chan error, 1)
	go func() {
		b := make([]byte, 32<<10)
		for {
			if _, err := c.Write(b); err != nil {
				wrote <- err
				return
			}
		}
	}()
	b := make([]byte, 32<<10)
	total := 0
	for {
		n, err := c.Read(b)
		if total < 1<<20 && total+n >= 1<<20 {
			say("moving")
		}
		total += n
		if err != nil {
			say("read ended: %v", err)
			say("write ended: %v", <-wrote)
			return nil
		}
	}
}

// post plays the server of the post about AF_UNIX on WSL, in the same words.
func post(path string) error {
	const text = "af_unix from Windows to WSL!"
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	defer l.Close()
	say("Accepting connections on: '%s'", path)
	c, err := l.AcceptUnix()
	if err != nil {
		return err
	}
	defer c.Close()
	say("Accepted a connection.")
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	say("Relayed %d bytes: '%s'", len(text), text)
	say("Shutting down")
	return nil
}
