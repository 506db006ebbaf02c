package link

import (
	"io"

	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// write writes one frame; the caller has the turn. An error ends the link.
func (o *outbox) write(b []byte) error { return o.writing(o.all(b)) }

// all is the writing of all of b.
func (o *outbox) all(b []byte) func() error {
	return func() error {
		n, err := o.l.rw.Write(b)
		if err == nil && n < len(b) {
			err = io.ErrShortWrite
		}
		return err
	}
}

// writeFrom is write for a frame whose payload a pipe holds.
func (o *outbox) writeFrom(h wire.Header, from, n int) error {
	return o.writing(func() error {
		var head [wire.HeaderSize]byte
		h.Put(head[:])
		return o.l.in.t.writeFrom(head[:], from, n)
	})
}

func (o *outbox) writing(write func() error) error {
	if err := o.reasonNow(); err != nil {
		return err
	}
	return o.perform(write)
}

// writeDue is write for what was taken off what is due: it counts as written before
// an end of the link that comes meanwhile, and that end waits for it.
func (o *outbox) writeDue(b []byte) error {
	o.mu.Lock()
	cut := o.cut
	o.mu.Unlock()
	if cut {
		return o.reason()
	}
	return o.perform(o.all(b))
}

// perform carries a write out, where the keeper sees it.
func (o *outbox) perform(write func() error) error {
	o.writes.Add(1)
	err := write()
	o.writes.Add(1)
	if err != nil {
		return o.broke(err)
	}
	return nil
}

// broke has nothing more be written after a write that failed, maybe within a
// frame, and ends the link. It returns what to tell the writer. The turn is still
// the caller's.
func (o *outbox) broke(err error) error {
	reason := errno.Errorf(errno.ECONNRESET, errno.LayerLink, "%v", err)
	o.fail(reason)
	o.mu.Lock()
	o.cut = true
	o.mu.Unlock()
	go o.l.unwritable(err) // which waits for the reader, maybe the caller
	return reason
}

func (o *outbox) reasonNow() error {
	select {
	case <-o.l.done:
		return o.reason()
	default:
		return nil
	}
}
