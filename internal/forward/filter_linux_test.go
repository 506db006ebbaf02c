package forward

import (
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"

	"drvsock/internal/config"
)

// agent answers each message with its number, and closes at extensions while
// old is set. It counts the connections.
func agentOf(old *atomic.Bool, conns *atomic.Int32) func(*net.UnixConn) {
	return func(c *net.UnixConn) {
		conns.Add(1)
		for {
			var h [5]byte
			if _, err := io.ReadFull(c, h[:]); err != nil {
				return
			}
			if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(h[:]))-1); err != nil {
				return
			}
			if h[4] == 27 && old.Load() {
				return
			}
			if _, err := c.Write([]byte{0, 0, 0, 1, h[4] + 100}); err != nil {
				return
			}
		}
	}
}

// TestSSHAgent: an agent is asked once per link, and an old one never sees an
// extension of a client.
func TestSSHAgent(t *testing.T) {
	r := newRig(t)
	var old atomic.Bool
	var conns atomic.Int32
	serve(t, filepath.Join(r.drive, "s"), agentOf(&old, &conns))
	r.add(t, config.Forward{Name: "x", Listen: r.guest + "/x", Connect: `C:\s`, Filter: "ssh-agent"})
	ask := func(number, want byte) {
		t.Helper()
		c := dial(t, r.guest+"/x")
		defer c.Close()
		for range 2 {
			_, err := c.Write([]byte{0, 0, 0, 2, number, 0})
			check(t, err)
			var b [5]byte
			_, err = io.ReadFull(c, b[:])
			check(t, err)
			if b[4] != want {
				t.Errorf("answer to %d is %d, want %d", number, b[4], want)
			}
		}
	}
	ask(27, 127) // a new agent answers itself
	ask(11, 111)
	if n := conns.Load(); n != 3 {
		t.Errorf("%d connections for 2 clients, want one more", n)
	}
	r.down()
	old.Store(true)
	r.up(t)
	ask(27, 5)
	ask(11, 111)
	if n := conns.Load(); n != 6 {
		t.Errorf("%d connections, want 6", n)
	}
	s := r.await(t, "x", func(s Status) bool { return s.Active == 0 })
	if s.Total != 4 || s.In != 4*2*6 || s.Out != 4*2*5 {
		t.Errorf("status is %+v", s)
	}
	c := dial(t, r.guest+"/x")
	defer c.Close()
	say := []byte{0, 0, 0, 1, 11}
	_, err := c.Write(say)
	check(t, err)
	_, err = io.ReadFull(c, make([]byte, 5))
	check(t, err)
	r.set.Close()
	if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("%d bytes, %v after Close", n, err)
	}
}
