// Package sshagent keeps ssh-agent protocol extensions away from agents that
// can't bear them.
//
// OpenSSH's client since 8.9 begins each use of an agent with an extension
// request (session-bind@openssh.com). The protocol (draft-ietf-sshm-ssh-agent)
// has an agent answer SSH_AGENT_FAILURE to what it doesn't know, but the agent
// of Windows' own OpenSSH before 8.9 closes the pipe, so that every later
// request fails (PowerShell/Win32-OpenSSH issue 1953). Probe finds out which an
// agent does, and Filter answers extensions in such a one's place.
package sshagent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// MaxMessage is the longest message, in bytes after its length. OpenSSH's agent
// and client have the same limit (AGENT_MAX_LEN and MAX_AGENT_REPLY_LEN).
const MaxMessage = 256 << 10

// Numbers of messages.
const (
	msgFailure          = 5  // SSH_AGENT_FAILURE
	msgExtension        = 27 // SSH_AGENTC_EXTENSION
	lengthBytes, header = 4, 5
)

var failure = []byte{0, 0, 0, 1, msgFailure}

// A Conn is a connection with a half-close.
type Conn interface {
	net.Conn
	CloseWrite() error
}

// A Verdict says what an agent does with an extension.
type Verdict uint8

// The verdicts.
const (
	Unknown Verdict = iota // it did not answer in time
	Bears                  // it answers
	Closes                 // it closes the connection
)

// Probe asks an agent, on a connection made for this, which extensions it
// has; every agent that knows extensions knows that one, and it changes nothing.
// It waits no longer than within, and closes c.
func Probe(c net.Conn, within time.Duration) Verdict {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(within))
	query := append([]byte{0, 0, 0, 5}, "query"...)
	m := binary.BigEndian.AppendUint32(nil, uint32(1+len(query)))
	m = append(append(m, msgExtension), query...)
	if _, err := c.Write(m); err != nil {
		return verdictOf(err)
	}
	if _, _, err := readHeader(c); err != nil {
		return verdictOf(err)
	}
	return Bears
}

func verdictOf(err error) Verdict {
	var n net.Error
	if errors.As(err, &n) && n.Timeout() {
		return Unknown
	}
	return Closes
}

// errLength is a length that no message has.
var errLength = errors.New("message of an impossible length")

// readHeader reads a message up to its number. io.EOF says that there is none.
func readHeader(r io.Reader) (h [header]byte, rest int64, err error) {
	if _, err = io.ReadFull(r, h[:lengthBytes]); err != nil {
		return h, 0, err
	}
	n := binary.BigEndian.Uint32(h[:])
	if n == 0 || n > MaxMessage {
		return h, 0, fmt.Errorf("%w: %d bytes", errLength, n)
	}
	if _, err = io.ReadFull(r, h[lengthBytes:]); err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return h, int64(n) - 1, err
}

// Filter relays between a client and an agent that closes at extensions, until
// one of them closes. It owns both and closes both. Requests are answered in
// their order. The error says why it ended in disorder.
func Filter(client, agent Conn) error {
	f := &filter{client: client, agent: agent}
	f.cond.L = &f.mu
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.end(f.answers())
	}()
	f.end(f.requests())
	<-done
	return f.err
}

type filter struct {
	client, agent Conn

	mu      sync.Mutex
	cond    sync.Cond
	pending int  // requests that the agent has not answered
	ended   bool // both are closed
	err     error
}

// end closes both connections.
func (f *filter) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ended {
		f.ended, f.err = true, err
		f.cond.Broadcast()
		_ = f.client.Close()
		_ = f.agent.Close()
	}
}

// requests brings the agent what the client asks.
func (f *filter) requests() error {
	for {
		h, rest, err := readHeader(f.client)
		if err == io.EOF {
			// The client may still read. A pipe has no half-close, so the agent's
			// own end is not waited for when it has answered all.
			if f.wait() {
				_ = f.client.CloseWrite()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("request: %w", err)
		}
		if h[lengthBytes] == msgExtension {
			if err := copyMessage(io.Discard, f.client, rest); err != nil {
				return fmt.Errorf("request: %w", err)
			}
			if !f.wait() {
				return nil
			}
			if _, err := f.client.Write(failure); err != nil {
				return fmt.Errorf("answer: %w", err)
			}
			continue
		}
		f.mu.Lock()
		f.pending++
		f.mu.Unlock()
		if _, err = f.agent.Write(h[:]); err == nil {
			err = copyMessage(f.agent, f.client, rest)
		}
		if err != nil {
			return fmt.Errorf("request: %w", err)
		}
	}
}

// wait waits until the agent has answered everything; false if all has ended.
func (f *filter) wait() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.pending > 0 && !f.ended {
		f.cond.Wait()
	}
	return !f.ended
}

// answers brings the client what the agent says.
func (f *filter) answers() error {
	for {
		h, rest, err := readHeader(f.agent)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		f.mu.Lock()
		asked := f.pending > 0
		f.mu.Unlock()
		if !asked {
			return errors.New("answer to nothing")
		}
		if _, err = f.client.Write(h[:]); err == nil {
			err = copyMessage(f.client, f.agent, rest)
		}
		if err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		f.mu.Lock()
		f.pending--
		f.cond.Broadcast()
		f.mu.Unlock()
	}
}

// buffers hold parts of messages on their way, and no longer.
var buffers = sync.Pool{New: func() any { return new([16 << 10]byte) }}

// copyMessage copies n bytes, the rest of a message.
func copyMessage(dst io.Writer, src io.Reader, n int64) error {
	if n == 0 {
		return nil
	}
	b := buffers.Get().(*[16 << 10]byte)
	defer buffers.Put(b)
	for n > 0 {
		m, err := src.Read(b[:min(n, int64(len(b)))])
		if m > 0 {
			if _, werr := dst.Write(b[:m]); werr != nil {
				return werr
			}
			n -= int64(m)
		}
		if err == io.EOF && n > 0 {
			return io.ErrUnexpectedEOF
		}
		if err != nil && n > 0 {
			return err
		}
	}
	return nil
}
