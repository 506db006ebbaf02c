package relay

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// programs gives the two programs' ends as blocking sockets in files.
func programs(b *testing.B, how string) (x, y *os.File, stop func()) {
	switch how {
	case "native":
		n := native(b)
		return os.NewFile(uintptr(n.a.fd), "a"), os.NewFile(uintptr(n.b.fd), "b"), func() {}
	case "hop":
		// One hop by io.Copy, what a plain relay in Go does.
		fa, ca := connected(b)
		fb, cb := connected(b)
		var wg sync.WaitGroup
		for _, p := range [][2]*net.UnixConn{{ca, cb}, {cb, ca}} {
			wg.Go(func() {
				buf := make([]byte, 64<<10)
				for {
					n, err := p[0].Read(buf)
					if n > 0 {
						_, _ = p[1].Write(buf[:n])
					}
					if err != nil {
						_ = p[1].CloseWrite()
						return
					}
				}
			})
		}
		return os.NewFile(uintptr(fa), "a"), os.NewFile(uintptr(fb), "b"), wg.Wait
	}
	r := relayed(b)
	return os.NewFile(uintptr(r.a.fd), "a"), os.NewFile(uintptr(r.b.fd), "b"), r.stop
}

var ways = []string{"native", "hop", "link"}

func BenchmarkRoundTrip(b *testing.B) {
	for _, how := range ways {
		b.Run(how, func(b *testing.B) {
			x, y, stop := programs(b, how)
			go func() {
				p := make([]byte, 1)
				for {
					if _, err := y.Read(p); err != nil {
						return
					}
					_, _ = y.Write(p)
				}
			}()
			p := make([]byte, 1)
			b.ResetTimer()
			for b.Loop() {
				if _, err := x.Write(p); err != nil {
					b.Fatal(err)
				}
				if _, err := x.Read(p); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			_ = x.Close()
			_ = y.Close()
			stop()
		})
	}
}

func BenchmarkBulk(b *testing.B) {
	for _, how := range ways {
		for _, n := range []int{1, 8} {
			b.Run(fmt.Sprint(how, n), func(b *testing.B) { bulk(b, how, n) })
		}
	}
}

func bulk(b *testing.B, how string, n int) {
	const piece = 64 << 10
	b.SetBytes(int64(n) * piece)
	var xs, ys []*os.File
	var stops []func()
	for range n {
		x, y, stop := programs(b, how)
		xs, ys, stops = append(xs, x), append(ys, y), append(stops, stop)
	}
	var wg sync.WaitGroup
	b.ResetTimer()
	for i := range n {
		wg.Go(func() {
			p := make([]byte, piece)
			for range b.N {
				if _, err := xs[i].Write(p); err != nil {
					b.Error(err)
					return
				}
			}
			_ = unix.Shutdown(int(xs[i].Fd()), unix.SHUT_WR)
		})
		wg.Go(func() {
			p := make([]byte, piece)
			got := 0
			for {
				m, err := ys[i].Read(p)
				got += m
				if err == io.EOF {
					break
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
			if got != b.N*piece {
				b.Errorf("got %d bytes, want %d", got, b.N*piece)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	for i := range n {
		_ = xs[i].Close()
		_ = ys[i].Close()
		stops[i]()
	}
}
