package forward

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"drvsock/internal/config"
	"drvsock/internal/endpoint"
	"drvsock/internal/socket"
	"drvsock/internal/wire"
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

// TestEveryPairing has each kind of endpoint that Linux can play, on either side,
// listened on for each that is connected to.
func TestEveryPairing(t *testing.T) {
	r := newRig(t)
	abstract := "@every" + filepath.Base(r.guest)
	kinds := []struct {
		name, form string // as in the configuration, with %s for a name
		network    wire.Network
		local      string // the path for programs of this system
	}{
		{"guest path", r.guest + "/%s", wire.NetUnix, r.guest + "/%s"},
		{"guest abstract", abstract + "%s", wire.NetUnix, abstract + "%s"},
		{"guest assuan", "assuan:" + r.guest + "/%s", wire.NetAssuan, r.guest + "/%s"},
		{"guest cygwin", "cygwin:" + r.guest + "/%s", wire.NetCygwin, r.guest + "/%s"},
		{"guest tcp", "guest:tcp:", wire.NetTCP, ""},
		{"host path", `C:\%s`, wire.NetUnix, r.drive + "/%s"},
		{"host assuan", `assuan:C:\%s`, wire.NetAssuan, r.drive + "/%s"},
		{"host cygwin", `cygwin:C:\%s`, wire.NetCygwin, r.drive + "/%s"},
		{"host tcp", "tcp:", wire.NetTCP, ""},
	}
	fill := func(form, name string) string { return strings.Replace(form, "%s", name, 1) }
	for j, to := range kinds {
		server := endpoint.Name{Network: to.network, Path: fill(to.local, fmt.Sprintf("s%d", j))}
		if to.network == wire.NetTCP {
			server.Path = "127.0.0.1:0"
		}
		l, err := socket.Listen(server, socket.Options{UID: -1, GID: -1})
		check(t, err)
		var work sync.WaitGroup
		work.Go(func() {
			for {
				c, _, err := l.Accept()
				if err != nil {
					return
				}
				work.Go(func() {
					defer c.Close()
					if b, err := io.ReadAll(c); err == nil {
						_, _ = c.Write(bytes.ToUpper(b))
					}
				})
			}
		})
		t.Cleanup(func() {
			_ = l.Close()
			work.Wait()
		})
		connect := fill(to.form, fmt.Sprintf("s%d", j))
		if to.network == wire.NetTCP {
			connect += l.Addr()
		}
		for i, from := range kinds {
			t.Run(from.name+" for "+to.name, func(t *testing.T) {
				name := fmt.Sprintf("l%d-%d", i, j)
				listen := fill(from.form, name)
				if from.network == wire.NetTCP {
					listen += "127.0.0.1:0"
				}
				r.add(t, config.Forward{Name: name, Listen: listen, Connect: connect})
				n := endpoint.Name{Network: from.network, Path: fill(from.local, name)}
				if from.network == wire.NetTCP {
					n.Path = strings.TrimPrefix(r.status(t, name).Address, from.form)
				}
				c, err := socket.Dial(t.Context(), n)
				check(t, err)
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				_, err = io.WriteString(c, "hello")
				check(t, err)
				check(t, c.CloseWrite())
				if b, err := io.ReadAll(c); err != nil || string(b) != "HELLO" {
					t.Errorf("got %q, %v", b, err)
				}
				s := r.await(t, name, func(s Status) bool { return s.Active == 0 && s.Total > 0 })
				if s.Total != 1 || s.In != 5 || s.Out != 5 || s.LastError != nil {
					t.Errorf("status is %+v (%v)", s, s.LastError)
				}
			})
		}
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

// TestVariables: the host's variables are put into host names that people wrote,
// and not into those that paths on a drive became.
func TestVariables(t *testing.T) {
	t.Setenv("DRVSOCK_TEST_FOLDER", `C:\sub`)
	r := newRig(t)
	odd := filepath.Join(r.drive, "100%DRVSOCK_TEST_FOLDER%%")
	check(t, os.Mkdir(odd, 0o755))
	check(t, os.Mkdir(filepath.Join(r.drive, "sub"), 0o755))
	serve(t, filepath.Join(r.guest, "back"), shout)
	for i, w := range []way{
		{"connect by variable", r.guest + "/a", `%DRVSOCK_TEST_FOLDER%\s`, r.guest + "/a", r.drive + "/sub/s"},
		{"listen by variable", `%DRVSOCK_TEST_FOLDER%\l`, r.guest + "/back", r.drive + "/sub/l", ""},
		{"connect to drive path", r.guest + "/b", odd + "/s", r.guest + "/b", odd + "/s"},
		{"listen on drive path", odd + "/l", r.guest + "/back", odd + "/l", ""},
		{"the same, as the host calls it", r.guest + "/c", `C:\100%%DRVSOCK_TEST_FOLDER%%%%\t`, r.guest + "/c", odd + "/t"},
	} {
		t.Run(w.name, func(t *testing.T) {
			if w.server != "" {
				serve(t, w.server, shout)
			}
			r.add(t, config.Forward{Name: string(rune('a' + i)), Listen: w.listen, Connect: w.connect})
			if got := ask(t, w.client, "hello"); got != "HELLO" {
				t.Errorf("got %q, want %q", got, "HELLO")
			}
		})
	}
	t.Run("not set", func(t *testing.T) {
		r.add(t, config.Forward{Name: "none", Listen: r.guest + "/none", Connect: `%DRVSOCK_TEST_NONE%\s`})
		c := dial(t, r.guest+"/none")
		defer c.Close()
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes come from nowhere", n)
		}
		s := r.await(t, "none", func(s Status) bool { return s.Failed == 1 })
		if e := s.LastError; e == nil || e.Layer != "agent" || e.Errno != "ENOENT" || !strings.Contains(e.Text, "DRVSOCK_TEST_NONE") {
			t.Errorf("last error is %+v, want the agent's ENOENT that names the variable", e)
		}
	})
}

// TestTCPResets: over TCP a failure is a reset, whether or not the client has
// written.
func TestTCPResets(t *testing.T) {
	r := newRig(t)
	unread := make(chan struct{})
	serve(t, filepath.Join(r.drive, "rude"), func(c *net.UnixConn) {
		<-unread // and then closes with the bytes unread
	})
	serve(t, filepath.Join(r.drive, "patient"), shout)
	for _, name := range []string{"nobody", "rude", "patient"} {
		r.add(t, config.Forward{Name: name, Listen: "guest:tcp:127.0.0.1:0", Connect: `C:\` + name})
	}
	open := func(name string) (net.Conn, error) {
		c, err := net.Dial("tcp", strings.TrimPrefix(r.status(t, name).Address, "guest:tcp:"))
		if err == nil {
			err = c.SetDeadline(time.Now().Add(20 * time.Second))
		}
		return c, err
	}
	reads := func(what string, c net.Conn) {
		t.Helper()
		defer c.Close()
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: read gives %d bytes, %v, want ECONNRESET", what, n, err)
		}
	}
	c, err := open("nobody")
	if !errors.Is(err, syscall.ECONNRESET) { // it may be that quick
		check(t, err)
		reads("a refused connection", c)
	}
	c, err = open("rude")
	check(t, err)
	_, err = io.WriteString(c, "unread")
	check(t, err)
	r.await(t, "rude", func(s Status) bool { return s.In == 6 })
	close(unread)
	reads("a server that closes with bytes unread", c)
	c, err = open("patient")
	check(t, err)
	r.await(t, "patient", func(s Status) bool { return s.Active == 1 })
	r.down()
	reads("a lost link", c)
}
