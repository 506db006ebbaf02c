//go:build ignore

// Echo386 serves one connection on the Unix socket that its argument names and
// is its own client. Built for 386 its calls go through socketcall(2).
package main

import (
	"fmt"
	"io"
	"net"
	"os"
)

func main() {
	l, err := net.Listen("unix", os.Args[1])
	check(err)
	go func() {
		c, err := l.Accept()
		check(err)
		_, err = io.Copy(c, c)
		check(err)
		check(c.Close())
	}()
	c, err := net.Dial("unix", os.Args[1])
	check(err)
	_, err = io.WriteString(c, "hello")
	check(err)
	check(c.(*net.UnixConn).CloseWrite())
	b, err := io.ReadAll(c)
	check(err)
	fmt.Println(string(b), c.RemoteAddr())
}

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
