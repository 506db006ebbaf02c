package agent

import (
	"io"
	"net"
	"testing"

	"drvsock/internal/wire"
)

// BenchmarkConnect is connect, one byte there and back, and the end: natively,
// and through a link.
func BenchmarkConnect(b *testing.B) {
	dir := folder(b)
	listener(b, dir+"/srv", func(c *net.UnixConn) {
		_, _ = io.Copy(c, c)
		_ = c.Close()
	})
	once := func(b *testing.B, c io.ReadWriteCloser) {
		buf := []byte{1}
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
		_ = c.Close()
	}
	b.Run("native", func(b *testing.B) {
		for b.Loop() {
			c, err := net.Dial("unix", dir+"/srv")
			check(b, err)
			once(b, c)
		}
	})
	b.Run("link", func(b *testing.B) {
		g := newBench(b, Config{Drives: map[byte]string{'C': dir}})
		for b.Loop() {
			s, _, err := g.Open(b.Context(), wire.Request{Kind: wire.KindConnect, Path: hostPath("srv")})
			check(b, err)
			once(b, s)
		}
	})
}
