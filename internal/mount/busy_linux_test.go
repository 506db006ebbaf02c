package mount

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"drvsock/internal/link"
	"drvsock/internal/wire"
)

// stuck is a Host whose agent can be made to stand still.
type stuck struct {
	*near
	still chan struct{} // closed when it does
	asked chan struct{} // gets something when it is asked then
}

func (h *stuck) Open(ctx context.Context, req wire.Request) (*link.Stream, wire.Answer, error) {
	select {
	case <-h.still:
		select {
		case h.asked <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return nil, wire.Answer{}, context.Cause(ctx)
	default:
		return h.near.Open(ctx, req)
	}
}

// TestCloseWithoutAnswer ends a view whose sockets are being brought back by an
// agent that doesn't answer: what each may take must not add up.
func TestCloseWithoutAnswer(t *testing.T) {
	h := &stuck{still: make(chan struct{}), asked: make(chan struct{}, 1)}
	_, at, _, m := mounted(t, func(v *view) {
		h.near = v.opts.Host.(*near)
		v.opts.Host = h
	})
	for i := range 3 {
		listen(t, filepath.Join(at, fmt.Sprint("s", i)))
	}
	close(h.still)
	h.lose()
	m.LinkUp()
	<-h.asked
	from := time.Now()
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if d := time.Since(from); d > limit/2 {
		t.Errorf("Close took %v", d)
	}
}
