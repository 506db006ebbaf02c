package link

import (
	"fmt"
	"io"
	"sync"
	"testing"
)

// The transports alone, and one stream over them.
func BenchmarkRoundTrip(b *testing.B) {
	for _, tr := range []transport{osPipes, socketPair} {
		b.Run(tr.name+"/raw", func(b *testing.B) {
			x, y := tr.make(b)
			go func() { _, _ = io.CopyBuffer(struct{ io.Writer }{y}, struct{ io.Reader }{y}, make([]byte, 100)) }()
			pingPong(b, x)
			_ = x.Close()
			_ = y.Close()
		})
		b.Run(tr.name+"/link", func(b *testing.B) {
			s, c := streams(b, tr, Config{})
			go func() { _, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 100)) }()
			pingPong(b, s)
		})
		b.Run(tr.name+"/beside bulk", func(b *testing.B) {
			h, c := acceptor()
			g, _ := links(b, tr, Config{}, Config{Handler: h})
			bulk := open(b, g)
			sunk := <-c
			go func() {
				p := make([]byte, 64<<10)
				for {
					if _, err := bulk.Write(p); err != nil {
						return
					}
				}
			}()
			go func() { _, _ = io.Copy(io.Discard, struct{ io.Reader }{sunk}) }()
			s := open(b, g)
			e := <-c
			go func() { _, _ = io.CopyBuffer(struct{ io.Writer }{e}, struct{ io.Reader }{e}, make([]byte, 100)) }()
			pingPong(b, s)
		})
	}
}

func pingPong(b *testing.B, c io.ReadWriter) {
	p := make([]byte, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(p); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, p); err != nil {
			b.Fatal(err)
		}
	}
}

type nowhere struct{ ended chan error }

func (nowhere) TryWrite(p []byte) (int, error) { return len(p), nil }
func (nowhere) Write(p []byte) (int, error)    { return len(p), nil }
func (n nowhere) CloseWrite() error            { n.ended <- nil; return nil }
func (n nowhere) Fail(err error)               { n.ended <- err }

func BenchmarkBulk(b *testing.B) {
	const piece = 64 << 10
	for _, tr := range []transport{osPipes, socketPair} {
		b.Run(tr.name+"/raw", func(b *testing.B) {
			x, y := tr.make(b)
			b.SetBytes(piece)
			go func() {
				p := make([]byte, piece)
				for range b.N {
					_, _ = x.Write(p)
				}
			}()
			p := make([]byte, 2*piece)
			for left := b.N * piece; left > 0; {
				n, err := y.Read(p)
				if err != nil {
					b.Fatal(err)
				}
				left -= n
			}
			_ = x.Close()
			_ = y.Close()
		})
		for _, n := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/%d streams", tr.name, n), func(b *testing.B) {
				h, c := acceptor()
				g, _ := links(b, tr, Config{}, Config{Handler: h})
				b.SetBytes(int64(n) * piece)
				b.ReportAllocs()
				var wg sync.WaitGroup
				for range n {
					x := open(b, g)
					ended := nowhere{make(chan error, 2)}
					(<-c).Deliver(ended)
					wg.Go(func() {
						for range b.N {
							m := piece
							for m > 0 {
								k, err := x.Credit()
								if err != nil {
									b.Error(err)
									return
								}
								k = min(k, m)
								if err := x.Send(NewBuffer(), k); err != nil {
									b.Error(err)
									return
								}
								m -= k
							}
						}
						_ = x.CloseWrite()
						if err := <-ended.ended; err != nil {
							b.Error(err)
						}
					})
				}
				wg.Wait()
			})
		}
	}
}
