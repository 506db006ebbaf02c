package pageant

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// address is the net.Addr of both ends.
type address struct{}

func (address) Network() string { return "pageant" }
func (address) String() string  { return Addr }

// duplex is a Conn of two one-way pipes within this process.
type duplex struct {
	in, out net.Conn
	err     atomic.Pointer[error] // why in ended, if not in an orderly way
}

// newDuplex returns both ends.
func newDuplex() (a, b *duplex) {
	a, b = new(duplex), new(duplex)
	a.in, b.out = net.Pipe()
	b.in, a.out = net.Pipe()
	return a, b
}

func (d *duplex) Read(p []byte) (int, error) {
	n, err := d.in.Read(p)
	if err == io.EOF {
		if why := d.err.Load(); why != nil {
			err = *why
		}
	}
	return n, closed(err)
}

func (d *duplex) Write(p []byte) (int, error) {
	n, err := d.out.Write(p)
	if errors.Is(err, io.ErrClosedPipe) {
		if why := d.err.Load(); why != nil {
			err = *why
		}
	}
	return n, closed(err)
}

func closed(err error) error {
	if errors.Is(err, io.ErrClosedPipe) {
		return net.ErrClosed
	}
	return err
}

func (d *duplex) CloseWrite() error { return d.out.Close() }

func (d *duplex) Close() error { return errors.Join(d.in.Close(), d.out.Close()) }

func (d *duplex) LocalAddr() net.Addr                { return address{} }
func (d *duplex) RemoteAddr() net.Addr               { return address{} }
func (d *duplex) SetReadDeadline(t time.Time) error  { return d.in.SetReadDeadline(t) }
func (d *duplex) SetWriteDeadline(t time.Time) error { return d.out.SetWriteDeadline(t) }

func (d *duplex) SetDeadline(t time.Time) error {
	return errors.Join(d.SetReadDeadline(t), d.SetWriteDeadline(t))
}

// newExchange returns a Conn each of whose messages is answered by ask, one after
// the other. An error of ask's ends it. Its goroutine ends with the Conn, but not
// before ask does.
func newExchange(ask func(msg []byte) ([]byte, error)) Conn {
	near, far := newDuplex()
	go func() {
		defer far.Close()
		for {
			msg, err := readMessage(far)
			if err == nil {
				msg, err = ask(msg)
			}
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
					near.err.Store(&err)
				}
				return
			}
			if _, err := far.Write(msg); err != nil {
				return
			}
		}
	}()
	return near
}

// newQuestion returns a Conn that brings msg, and the function that waits for what
// is answered on it, until d has gone by or stop is closed. answer must be called
// and ends the Conn; it may be called only once.
func newQuestion(msg []byte) (conn Conn, answer func(d time.Duration, stop <-chan struct{}) ([]byte, error)) {
	near, far := newDuplex()
	go func() { _, _ = far.Write(msg) }()
	return near, func(d time.Duration, stop <-chan struct{}) ([]byte, error) {
		defer far.Close()
		if err := far.SetReadDeadline(time.Now().Add(d)); err != nil {
			return nil, err
		}
		over := make(chan struct{})
		defer close(over)
		go func() {
			select {
			case <-stop:
				_ = far.Close()
			case <-over:
			}
		}()
		return readMessage(far)
	}
}
