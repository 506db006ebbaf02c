package pageant

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
)

// readMessage reads one message with its length. io.EOF is an end before one.
func readMessage(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxMessage-4 {
		return nil, fmt.Errorf("a message of %d bytes, want 1 to %d", n, maxMessage-4)
	}
	msg := make([]byte, 4+n)
	copy(msg, head[:])
	if _, err := io.ReadFull(r, msg[4:]); err != nil {
		return nil, fmt.Errorf("message of %d bytes: %w", n, err)
	}
	return msg, nil
}

// message returns the message at the beginning of mem.
func message(mem []byte) ([]byte, error) {
	if len(mem) < 5 {
		return nil, fmt.Errorf("%d bytes of shared memory", len(mem))
	}
	// Its other owner may change it, so the length is looked at once.
	n := binary.BigEndian.Uint32(mem)
	if n == 0 || n > uint32(min(len(mem), maxMessage)-4) {
		return nil, fmt.Errorf("a message of %d bytes in %d bytes of shared memory", n, len(mem))
	}
	msg := make([]byte, 4+n)
	binary.BigEndian.PutUint32(msg, n)
	copy(msg[4:], mem[4:])
	return msg, nil
}

// A meter counts the messages in a stream of bytes.
type meter struct {
	whole int // complete ones
	head  [4]byte
	have  int    // bytes of head
	left  uint32 // bytes of the message after head
}

func (m *meter) feed(p []byte) {
	for len(p) > 0 {
		if m.have < len(m.head) {
			n := copy(m.head[m.have:], p)
			m.have += n
			p = p[n:]
			if m.have < len(m.head) {
				return
			}
			m.left = binary.BigEndian.Uint32(m.head[:])
		}
		n := min(uint64(len(p)), uint64(m.left))
		m.left -= uint32(n)
		p = p[n:]
		if m.left == 0 {
			m.whole++
			m.have = 0
		}
	}
}

// pipeConn gives a pipe, which can't be closed for one direction, a CloseWrite.
type pipeConn struct {
	net.Conn
	agent bool // this side answers

	mu              sync.Mutex
	asked, answered meter
	over            bool // after CloseWrite
}

func (c *pipeConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	if c.over {
		c.mu.Unlock()
		return 0, net.ErrClosed
	}
	c.asked.feed(p) // before the answer can come
	c.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *pipeConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered.feed(p[:n])
	if c.over {
		if err != nil {
			err = io.EOF // of CloseWrite's making, or the other's end
		}
		c.finish()
	}
	return n, err
}

// CloseWrite closes the pipe when all has been answered, which may be now.
func (c *pipeConn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	return c.finish()
}

func (c *pipeConn) finish() error {
	if c.agent || c.answered.whole >= c.asked.whole && c.answered.have == 0 {
		return c.Conn.Close()
	}
	return nil
}
