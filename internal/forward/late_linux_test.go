package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"drvsock/internal/config"
	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/relay"
	"drvsock/internal/wire"
)

// TestCloseMeanwhile has the set close when a connection has just been opened:
// both of its ends learn of it, whatever they are.
func TestCloseMeanwhile(t *testing.T) {
	r := newRig(t)
	r.add(t, config.Forward{Name: "f", Listen: r.guest + "/f", Connect: `C:\s`})
	f := r.set.get("f")
	r.set.Close()
	over := make(chan string, 2)
	serve(t, filepath.Join(r.drive, "far"), func(c *net.UnixConn) {
		_, _ = c.Read(make([]byte, 1))
		over <- "stream"
	})
	serve(t, filepath.Join(r.guest, "near"), func(c *net.UnixConn) {
		_, _ = c.Read(make([]byte, 1))
		over <- "socket"
	})
	for _, first := range []string{"socket", "stream"} {
		stream, _, err := r.Open(t.Context(), wire.Request{Kind: wire.KindConnect, Path: []byte(`C:\far`)})
		check(t, err)
		var client, target relay.Conn = dial(t, r.guest+"/near"), stream
		if first == "stream" {
			client, target = target, client
		}
		t.Cleanup(func() { _, _ = client.Close(), target.Close() })
		f.join(Caller{}, client, target)
		for range 2 {
			select {
			case <-over:
			case <-time.After(5 * time.Second):
				t.Fatalf("client a %s: an end is left open", first)
			}
		}
	}
}

// A mute is a host that doesn't answer.
type mute struct{ *host }

func (mute) Open(ctx context.Context, _ wire.Request) (*link.Stream, wire.Answer, error) {
	<-ctx.Done()
	return nil, wire.Answer{}, fmt.Errorf("opening: %w", context.Cause(ctx))
}

// TestNoAnswer: the status and the host's client learn that it was the link.
func TestNoAnswer(t *testing.T) {
	r := newRig(t)
	set := NewSet(mute{r.host}, nil)
	defer set.Close()
	check(t, set.Add(config.Forward{Name: "f", Listen: r.guest + "/f", Connect: `C:\s`}))
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := set.get("f").dial(ctx, self())
	var e *errno.Error
	if !errors.As(err, &e) || e.Layer != errno.LayerLink || e.Errno != errno.ETIMEDOUT {
		t.Errorf("%v, want ETIMEDOUT of the link", err)
	}
}
