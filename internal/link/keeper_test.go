package link

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// silent takes a transport's bytes and says nothing after the hello.
func silent(c net.Conn, read bool) {
	h := wire.Hello{Version: 1, MinVersion: 1, Role: wire.RoleAgent, Window: 1000}
	go func() { _, _ = c.Write(h.Append(nil)) }()
	b := make([]byte, wire.HelloSize)
	_, _ = io.ReadFull(c, b)
	n, _ := wire.HelloRest(b)
	_, _ = io.ReadFull(c, make([]byte, n))
	if read {
		_, _ = io.Copy(io.Discard, c)
	}
}

func TestDeadPeer(t *testing.T) {
	for _, tt := range []struct {
		name string
		read bool
	}{{"reads and says nothing", true}, {"reads nothing", false}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x, y := net.Pipe()
				go silent(y, tt.read)
				l, err := New(x, Config{Role: wire.RoleGuest})
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				_, _, err = l.Open(t.Context(), anything)
				took := time.Since(start)
				if errno.Of(err) != errno.ETIMEDOUT && tt.read {
					t.Errorf("open: %v, want ETIMEDOUT", err)
				}
				<-l.Done()
				if errno.Of(l.Err()) != errno.ETIMEDOUT {
					t.Errorf("link ended with %v, want ETIMEDOUT", l.Err())
				}
				if took < DefaultDeadAfter-DefaultPingAfter || took > DefaultDeadAfter+DefaultPingAfter {
					t.Errorf("found dead after %v, want about %v", took, DefaultDeadAfter)
				}
				_ = y.Close()
			})
		})
	}
}

func TestIdleLinkLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := net.Pipe()
		made := make(chan *Link)
		go func() {
			l, err := New(y, Config{Role: wire.RoleAgent})
			if err != nil {
				t.Error(err)
			}
			made <- l
		}()
		g, err := New(x, Config{Role: wire.RoleGuest})
		if err != nil {
			t.Fatal(err)
		}
		a := <-made
		time.Sleep(time.Hour)
		if g.Err() != nil || a.Err() != nil {
			t.Errorf("links ended: %v, %v", g.Err(), a.Err())
		}
		_ = g.Close()
		<-a.Done()
	})
}

func TestNoHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := net.Pipe()
		start := time.Now()
		_, err := New(x, Config{Role: wire.RoleGuest})
		if errno.Of(err) != errno.ETIMEDOUT || time.Since(start) != DefaultHelloTimeout {
			t.Errorf("%v after %v, want ETIMEDOUT after %v", err, time.Since(start), DefaultHelloTimeout)
		}
		_ = y.Close()
	})
}
