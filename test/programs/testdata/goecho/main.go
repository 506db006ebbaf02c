// Command goecho is an echo server and its client over a Unix socket.
package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
)

func main() {
	var err error
	if os.Args[1] == "server" {
		err = serve(os.Args[2])
	} else {
		conns, _ := strconv.Atoi(os.Args[3])
		n, _ := strconv.Atoi(os.Args[4])
		err = client(os.Args[2], conns, n)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(path string) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if _, err := io.Copy(c, c); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return
			}
			_ = c.(*net.UnixConn).CloseWrite()
		}()
	}
}

func client(path string, conns, n int) error {
	errs := make(chan error)
	peers := make(chan string, conns)
	for c := range conns {
		go func() { errs <- call(path, c, n, peers) }()
	}
	for range conns {
		if err := <-errs; err != nil {
			return err
		}
	}
	fmt.Println(conns, n, <-peers)
	return nil
}

func call(path string, c, n int, peers chan<- string) error {
	want := make([]byte, n)
	for i := range want {
		want[i] = byte(c + i%251)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer conn.Close()
	peers <- conn.RemoteAddr().String()
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(want)
		if err == nil {
			err = conn.(*net.UnixConn).CloseWrite()
		}
		sent <- err
	}()
	got, err := io.ReadAll(conn)
	if err == nil {
		err = <-sent
	}
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("connection %d: %d bytes of %d came back", c, len(got), n)
	}
	return err
}
