package forward

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"drvsock/internal/config"
)

// A way is a pairing: what is listened on and connected to, and where programs
// of either side find the two.
type way struct {
	name            string
	listen, connect string
	client, server  string // paths for native programs
}

func ways(r *rig, suffix string) []way {
	host := func(name string) string { return `C:\` + name + suffix }
	onHost := func(name string) string { return filepath.Join(r.drive, name+suffix) }
	onGuest := func(name string) string { return filepath.Join(r.guest, name+suffix) }
	abstract := func(name string) string { return "@fwd" + filepath.Base(r.guest) + name + suffix }
	return []way{
		{"guest to host", onGuest("gh"), host("ghs"), onGuest("gh"), onHost("ghs")},
		{"host to guest", host("hg"), onGuest("hgs"), onHost("hg"), onGuest("hgs")},
		{"guest to guest", onGuest("gg"), onGuest("ggs"), onGuest("gg"), onGuest("ggs")},
		{"host to host", host("hh"), host("hhs"), onHost("hh"), onHost("hhs")},
		{"abstract to host", abstract("ah"), host("ahs"), abstract("ah"), onHost("ahs")},
		{"host to abstract", host("ha"), abstract("has"), onHost("ha"), abstract("has")},
		{"drive path to guest", onHost("dg"), onGuest("dgs"), onHost("dg"), onGuest("dgs")},
		{"guest to drive path", onGuest("gd"), onHost("gds"), onGuest("gd"), onHost("gds")},
	}
}

func TestPairings(t *testing.T) {
	r := newRig(t)
	for i, w := range ways(r, "") {
		t.Run(w.name, func(t *testing.T) {
			serve(t, w.server, shout)
			name := string(rune('a' + i))
			r.add(t, config.Forward{Name: name, Listen: w.listen, Connect: w.connect})
			for _, text := range []string{"", "hello", string(bytes.Repeat([]byte("0123456789abcdef"), 1<<16))} {
				want := string(bytes.ToUpper([]byte(text)))
				if got := ask(t, w.server, text); got != want {
					t.Fatalf("natively: %d bytes, want %d", len(got), len(want))
				}
				if got := ask(t, w.client, text); got != want {
					t.Errorf("got %d bytes, want %d", len(got), len(want))
				}
			}
			s := r.await(t, name, func(s Status) bool { return s.Active == 0 })
			const bytes = 5 + 1<<20
			if s.Total != 3 || s.In != bytes || s.Out != bytes || s.LastError != nil {
				t.Errorf("status is %+v (%v), want 3 connections with %d bytes each way", s, s.LastError, bytes)
			}
		})
	}
}

// TestBothWays sends random bytes of random sizes both ways at once, over many
// connections of all pairings.
func TestBothWays(t *testing.T) {
	r := newRig(t)
	const size = 3 << 20
	echo := func(c *net.UnixConn) {
		_, _ = io.Copy(c, c)
		_ = c.CloseWrite()
	}
	var work sync.WaitGroup
	for i, w := range ways(r, "") {
		serve(t, w.server, echo)
		r.add(t, config.Forward{Name: string(rune('a' + i)), Listen: w.listen, Connect: w.connect})
		for n := range 3 {
			c := dial(t, w.client)
			work.Go(func() {
				defer c.Close()
				sent := sha256.New()
				work.Go(func() {
					rnd := rand.New(rand.NewPCG(uint64(i), uint64(n)))
					source := rand.NewChaCha8([32]byte{byte(i), byte(n)})
					b := make([]byte, 100<<10)
					for left := size; left > 0; {
						p := b[:min(left, 1+rnd.IntN(len(b)))]
						_, _ = source.Read(p)
						sent.Write(p)
						if _, err := c.Write(p); err != nil {
							t.Errorf("%s: %v", w.name, err)
							return
						}
						left -= len(p)
					}
					_ = c.CloseWrite()
				})
				got := sha256.New()
				if m, err := io.Copy(got, c); err != nil || m != size {
					t.Errorf("%s: %d bytes came back of %d: %v", w.name, m, size, err)
				} else if !bytes.Equal(got.Sum(nil), sent.Sum(nil)) {
					t.Errorf("%s: other bytes came back", w.name)
				}
			})
		}
	}
	work.Wait()
}
