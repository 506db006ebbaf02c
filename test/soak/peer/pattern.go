package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"

	"drvsock/test/soak/part"
)

// fill fills p with the bytes of the pattern seed from the offset off on.
func fill(p []byte, seed uint64, off int64) {
	var word [8]byte
	for i := 0; i < len(p); {
		at := uint64(off) + uint64(i)
		x := seed + (at/8+1)*0x9e3779b97f4a7c15
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(word[:], x^x>>31)
		i += copy(p[i:], word[at%8:])
	}
}

// wrong is what must never happen: another byte than was sent, or one too many.
type wrong struct{ text string }

func (w wrong) Error() string { return "WRONG: " + w.text }

// check wants p to be the bytes of the pattern from off on.
func check(p, scratch []byte, seed uint64, off int64) error {
	want := scratch[:len(p)]
	fill(want, seed, off)
	if bytes.Equal(p, want) {
		return nil
	}
	i := 0
	for p[i] == want[i] {
		i++
	}
	tail := func(b []byte) []byte { return b[i:min(i+16, len(b))] }
	return wrong{fmt.Sprintf("at %d of pattern %#x: got %x, want %x", off+int64(i), seed, tail(p), tail(want))}
}

// plan is the first thing that a client sends. Patterns of the two directions
// are seed and ^seed.
type plan struct {
	kind byte
	half bool   // the client ends its direction after its last byte
	seed uint64 // of what the client sends
	up   int64  // bytes from the client; with idle, rounds
	down int64  // bytes to the client
}

const planSize = 32

func (p plan) bytes() []byte {
	b := make([]byte, planSize)
	b[0] = p.kind
	if p.half {
		b[1] = 1
	}
	binary.BigEndian.PutUint64(b[8:], p.seed)
	binary.BigEndian.PutUint64(b[16:], uint64(p.up))
	binary.BigEndian.PutUint32(b[24:], uint32(p.down))
	binary.BigEndian.PutUint32(b[28:], p.sum(b))
	return b
}

func (plan) sum(b []byte) (s uint32) {
	for _, c := range b[:28] {
		s = s*31 + uint32(c) + 7
	}
	return s
}

// readPlan reads what a client sends first.
func readPlan(c net.Conn) (p plan, err error) {
	b := make([]byte, planSize)
	if n, err := io.ReadFull(c, b); err != nil {
		if n > 0 && (b[0] < part.Talk || b[0] > part.Idle) {
			err = wrong{fmt.Sprintf("a plan that begins with %x", b[:n])}
		}
		return p, err
	}
	if binary.BigEndian.Uint32(b[28:]) != p.sum(b) {
		return p, wrong{fmt.Sprintf("a plan of %x", b)}
	}
	return plan{
		kind: b[0], half: b[1] == 1, seed: binary.BigEndian.Uint64(b[8:]),
		up: int64(binary.BigEndian.Uint64(b[16:])), down: int64(binary.BigEndian.Uint32(b[24:])),
	}, nil
}

// send writes n bytes of a pattern in pieces that step sizes; step may wait.
func send(c net.Conn, seed uint64, n int64, step func() int) error {
	buf := make([]byte, 64<<10)
	for off := int64(0); off < n; {
		p := buf[:min(int64(min(step(), len(buf))), n-off)]
		fill(p, seed, off)
		if _, err := c.Write(p); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}

// receive reads n bytes of a pattern and returns how many came. An end before
// the last one is io.ErrUnexpectedEOF.
func receive(c net.Conn, seed uint64, n int64) (off int64, err error) {
	size := min(n, 64<<10)
	buf, scratch := make([]byte, size), make([]byte, size)
	for off < n {
		m, err := c.Read(buf[:min(size, n-off)])
		if cerr := check(buf[:m], scratch, seed, off); cerr != nil {
			return off, cerr
		}
		off += int64(m)
		if err == io.EOF && off < n {
			return off, io.ErrUnexpectedEOF
		}
		if err != nil && err != io.EOF {
			return off, err
		}
	}
	return off, nil
}

// ended wants the end of the other direction and nothing before it.
func ended(c net.Conn) error {
	var b [16]byte
	n, err := c.Read(b[:])
	if n > 0 {
		return wrong{fmt.Sprintf("%x after the last byte", b[:n])}
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// halfCloser is what all connections here are.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}
