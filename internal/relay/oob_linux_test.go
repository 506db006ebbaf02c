package relay

import (
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOutOfBand sends a byte by MSG_OOB among others, few and many: the far program
// gets it where it was sent, as from a kernel that knows no such thing, and misses none.
func TestOutOfBand(t *testing.T) {
	for i, n := range []int{3, 300_000, 3, 300_000} {
		r := [...]func(testing.TB) *bench{relayed, relayed, localOnly, localOnly}[i](t)
		a, b := os.NewFile(uintptr(r.a.fd), "a"), os.NewFile(uintptr(r.b.fd), "b")
		before, after := strings.Repeat("a", n), strings.Repeat("c", n)
		go func() {
			_, _ = a.WriteString(before)
			if err := unix.Sendto(int(a.Fd()), []byte("b"), unix.MSG_OOB, nil); err == unix.EOPNOTSUPP {
				_, _ = a.WriteString("b") // before Linux 5.15
			} else if err != nil {
				t.Error(err)
			}
			_, _ = a.WriteString(after)
		}()
		got := make([]byte, 2*n+1)
		late := time.AfterFunc(10*time.Second, func() { _ = b.Close(); _ = a.Close() })
		if m, err := io.ReadFull(b, got); err != nil || string(got) != before+"b"+after {
			t.Errorf("%d of %d bytes, %v, or others", m, len(got), err)
		}
		late.Stop()
		_ = a.Close()
		_ = b.Close()
		r.stop()
	}
}

// TestUrgent does so over TCP, which splice(2) does not get past such a byte of, and
// then ends: neither is that byte lost nor what comes after it.
func TestUrgent(t *testing.T) {
	for _, n := range []int{3, 300_000} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		program, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = ln.Close()
		g, a, streams := pipes(t)
		s1, _, err := g.Open(t.Context(), connect)
		if err != nil {
			t.Fatal(err)
		}
		fd, c := connected(t)
		joined := make(chan error, 2)
		go func() { joined <- Join(conn.(*net.TCPConn), s1) }()
		go func() { joined <- Join(c, <-streams) }()
		before, after := strings.Repeat("a", n), strings.Repeat("c", n)
		go func() {
			_, _ = io.WriteString(program, before)
			raw, err := program.(*net.TCPConn).SyscallConn()
			if err != nil {
				t.Error(err)
				return
			}
			_ = raw.Write(func(fd uintptr) bool {
				err = unix.Sendto(int(fd), []byte("b"), unix.MSG_OOB|unix.MSG_DONTWAIT, nil)
				return err != unix.EAGAIN
			})
			if err != nil {
				t.Error(err)
			}
			_, _ = io.WriteString(program, after)
			_ = program.(*net.TCPConn).CloseWrite()
		}()
		b := os.NewFile(uintptr(fd), "b")
		late := time.AfterFunc(10*time.Second, func() { _ = g.Close() })
		got, err := io.ReadAll(b)
		if want := before + "b" + after; err != nil || string(got) != want {
			t.Errorf("%d of %d bytes, %v, or others", len(got), len(want), err)
		}
		late.Stop()
		_ = b.Close()
		_ = program.Close()
		for range 2 {
			if err := <-joined; err != nil {
				t.Error(err)
			}
		}
		_ = g.Close()
		_ = a.Close()
	}
}
