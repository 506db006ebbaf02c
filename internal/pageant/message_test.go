package pageant

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/nettest"
)

// framed puts the length in front of body.
func framed(body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func TestReadMessage(t *testing.T) {
	longest := strings.Repeat("x", maxMessage-4)
	r := bytes.NewReader(append(framed("a"), framed(longest)...))
	for _, want := range []string{"a", longest} {
		if got, err := readMessage(r); !bytes.Equal(got, framed(want)) || err != nil {
			t.Errorf("%.20q, %v", got, err)
		}
	}
	if _, err := readMessage(r); err != io.EOF {
		t.Errorf("the end is %v", err)
	}
	for _, bad := range []string{"\x00\x00\x00\x00", "\x00\x04\x00\x00x", "\xff\xff\xff\xffx", "\x00\x00", "\x00\x00\x00\x05abc"} {
		if got, err := readMessage(strings.NewReader(bad)); err == nil || err == io.EOF {
			t.Errorf("%q is %q, %v", bad, got, err)
		}
	}
}

func TestMessage(t *testing.T) {
	mem := append(framed("\x0b"), make([]byte, 100)...)
	if got, err := message(mem); string(got) != "\x00\x00\x00\x01\x0b" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	full := framed(strings.Repeat("x", 96))
	if got, err := message(full); !bytes.Equal(got, full) || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range [][]byte{nil, make([]byte, 4), make([]byte, 100), full[:99], binary.BigEndian.AppendUint32(nil, 1<<31)} {
		if got, err := message(bad); err == nil {
			t.Errorf("%.8q is %q", bad, got)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01\x0b"))
	f.Add([]byte("\x00\x00\x00\x01\x0brest"))
	f.Add([]byte("\xff\xff\xff\xff\x0brest"))
	f.Fuzz(func(t *testing.T, mem []byte) {
		got, err := message(mem)
		want, wantErr := readMessage(bytes.NewReader(mem))
		if (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(got, want) {
			t.Errorf("%q is %q, %v, read %q, %v", mem, got, err, want, wantErr)
		}
	})
}

// However a stream is cut, the meter finds the messages in it.
func TestMeter(t *testing.T) {
	var all []byte
	for i := range 100 {
		all = append(all, framed(strings.Repeat("x", i%7*i))...) // some are empty
	}
	for range 100 {
		var m meter
		for rest := all; len(rest) > 0; {
			n := 1 + rand.N(min(len(rest), 40))
			m.feed(rest[:n])
			rest = rest[n:]
		}
		if m.whole != 100 || m.have != 0 {
			t.Fatalf("%+v", m)
		}
	}
}

func TestDuplex(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		a, b := newDuplex()
		return a, b, func() { _, _ = a.Close(), b.Close() }, nil
	})
}

func TestExchange(t *testing.T) {
	refuse := errors.New("refused")
	newConn := func() Conn {
		return newExchange(func(msg []byte) ([]byte, error) {
			if string(msg[4:]) == "bad" {
				return nil, refuse
			}
			return framed("re: " + string(msg[4:])), nil
		})
	}
	conn := newConn()
	defer conn.Close()
	// Two in pieces that don't fit the messages, the writer ahead of the reader.
	both := append(framed("one"), framed("two")...)
	go func() {
		for _, p := range [][]byte{both[:2], both[2:9], both[9:]} {
			if _, err := conn.Write(p); err != nil {
				t.Error(err)
			}
		}
		if err := conn.CloseWrite(); err != nil {
			t.Error(err)
		}
	}()
	got, err := io.ReadAll(conn)
	if want := append(framed("re: one"), framed("re: two")...); !bytes.Equal(got, want) || err != nil {
		t.Errorf("%q, %v, want %q", got, err, want)
	}

	bad := newConn()
	defer bad.Close()
	if _, err := bad.Write(framed("bad")); err != nil {
		t.Error(err)
	}
	if _, err := bad.Read(make([]byte, 1)); !errors.Is(err, refuse) {
		t.Errorf("read: %v", err)
	}
	if _, err := bad.Write(framed("more")); !errors.Is(err, refuse) {
		t.Errorf("write: %v", err)
	}
}

func TestQuestion(t *testing.T) {
	stop := make(chan struct{})
	t.Run("answered", func(t *testing.T) {
		conn, answer := newQuestion(framed("?"))
		defer conn.Close()
		done := make(chan error, 1)
		go func() {
			q, err := readMessage(conn)
			if err == nil && string(q[4:]) != "?" {
				err = errors.New(string(q))
			}
			// No end before the answer.
			_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if _, end := conn.Read(make([]byte, 1)); !errors.Is(end, os.ErrDeadlineExceeded) {
				err = errors.Join(err, end)
			}
			_ = conn.SetReadDeadline(time.Time{})
			_, err2 := conn.Write(framed("!"))
			_, end := conn.Read(make([]byte, 1))
			if end != io.EOF {
				err = errors.Join(err, errors.New("no end"))
			}
			done <- errors.Join(err, err2)
		}()
		if got, err := answer(10*time.Second, stop); string(got) != string(framed("!")) || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		conn, answer := newQuestion(framed("?"))
		_ = conn.Close()
		if got, err := answer(10*time.Second, stop); err == nil {
			t.Errorf("%q", got)
		}
	})
	t.Run("late", func(t *testing.T) {
		conn, answer := newQuestion(framed("?"))
		defer conn.Close()
		if got, err := answer(10*time.Millisecond, stop); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("stopped", func(t *testing.T) {
		conn, answer := newQuestion(framed("?"))
		defer conn.Close()
		time.AfterFunc(10*time.Millisecond, func() { close(stop) })
		if got, err := answer(10*time.Second, stop); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestPipeHalfClose(t *testing.T) {
	pair := func() (*pipeConn, net.Conn) {
		near, far := net.Pipe()
		t.Cleanup(func() { _, _ = near.Close(), far.Close() })
		_ = far.SetDeadline(time.Now().Add(10 * time.Second))
		return &pipeConn{Conn: near}, far
	}
	t.Run("with an answer to come", func(t *testing.T) {
		c, far := pair()
		go func() {
			_, _ = readMessage(far)
			for _, p := range [][]byte{framed("answer")[:3], framed("answer")[3:]} {
				time.Sleep(10 * time.Millisecond)
				_, _ = far.Write(p)
			}
		}()
		if _, err := c.Write(framed("question")); err != nil {
			t.Error(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
		if b, err := io.ReadAll(c); !bytes.Equal(b, framed("answer")) || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		if _, err := c.Write(framed("more")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
	})
	t.Run("with nothing to come", func(t *testing.T) {
		c, _ := pair()
		time.AfterFunc(10*time.Millisecond, func() { _ = c.CloseWrite() })
		if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
			t.Errorf("%q, %v", b, err)
		}
	})
	t.Run("of an agent", func(t *testing.T) {
		c, far := pair()
		c.agent = true
		go func() { _, _ = far.Write(framed("question")) }()
		if _, err := readMessage(c); err != nil {
			t.Error(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
		if _, err := far.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the client's read: %v", err)
		}
	})
}
