//go:build !linux

package demo

import (
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// On Windows these are ordinary programs of package net, as a Go programmer
// would write them.

func server(say *voice, _ []string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: serverSocket, Net: "unix"})
	if err != nil {
		return err
	}
	defer l.Close() // removes the file too
	say.line("listening, its address is %s", l.Addr())
	if err := l.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	say.line("accepted a client, its name is %s", orEmpty(conn.RemoteAddr()))
	n, err := conn.Write([]byte(greeting))
	if err != nil {
		return err
	}
	say.line("sent %d bytes", n)
	return nil
}

func client(say *voice, args []string) error {
	d := net.Dialer{Timeout: patience}
	if len(args) > 0 {
		d.LocalAddr = &net.UnixAddr{Name: args[0], Net: "unix"}
		defer os.Remove(args[0])
	}
	conn, err := d.Dial("unix", serverSocket)
	if err != nil {
		return err
	}
	defer conn.Close()
	say.line("connected, the peer's address is %s", orEmpty(conn.RemoteAddr()))
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	got, err := io.ReadAll(io.LimitReader(conn, 1<<16))
	if err != nil {
		return err
	}
	say.line("received %d bytes: %s", len(got), got)
	return nil
}

func bind(say *voice, _ []string) error {
	l, err := net.Listen("unix", bindSocket)
	if err != nil {
		return err
	}
	defer l.Close()
	say.line("bound, its address is %s", l.Addr())
	return nil
}

func orEmpty(a net.Addr) string {
	if a == nil || a.String() == "" {
		return "empty"
	}
	return fmt.Sprint(a)
}
