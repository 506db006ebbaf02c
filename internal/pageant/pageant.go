// Package pageant speaks with programs that know PuTTY's agent, Pageant, and not
// Unix sockets: as their client, and in Pageant's place. Both have two ways, a
// named pipe (PuTTY 0.77 and later) and a window message with shared memory (all
// of them, and the many programs that play Pageant or PuTTY).
//
// Over either go messages of the ssh-agent protocol, each with its length in
// four bytes in front. The window knows no connections, only questions with an
// answer each; here a Conn is made of them.
package pageant

import (
	"context"
	"log/slog"
	"net"

	"drvsock/internal/wire"
)

// maxMessage is the longest message with its length, in bytes: AGENT_MAX_MSGLEN
// of PuTTY 0.71 and later. Earlier ones, and others in Pageant's place, take 8 KiB
// or 16 KiB and answer longer ones with a failure.
const maxMessage = 256 << 10

// Addr is what Listener.Addr returns.
const Addr = "pageant:"

// A Conn is a connection of the ssh-agent protocol. CloseWrite lets what has been
// asked be answered; then reads end with io.EOF. On the agent's side, for which a
// connection without answers is of no use, it closes the connection.
type Conn interface {
	net.Conn
	CloseWrite() error
}

// A Listener plays Pageant. Its methods may be used at the same time.
type Listener struct {
	listener *listener
}

// Dial connects to the Pageant of this account: by its pipe if it has one, else by
// its window. ctx bounds it. Systems other than Windows answer EAFNOSUPPORT.
func Dial(ctx context.Context) (Conn, error) { return dial(ctx) }

// Listen plays Pageant for the programs of this account: by the pipe and by the
// window, or with a warning in the log by the one that can be had. EADDRINUSE if
// there is a Pageant already. Systems other than Windows answer EAFNOSUPPORT. A nil
// log discards.
func Listen(log *slog.Logger) (*Listener, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	l, err := listen(log)
	if err != nil {
		return nil, err
	}
	return &Listener{l}, nil
}

// Accept returns the next connection and its caller. One that came by the window
// carries one question: after it, a read waits until the answer has been written
// and then ends with io.EOF, since agents drop what they have not answered at the
// end of a connection. After Close it returns net.ErrClosed.
//
// Callers are of this account: the pipe lets in no other, and a question by the
// window lies in memory that this account owns. Only a pipe knows the process.
func (l *Listener) Accept() (Conn, wire.Caller, error) { return l.listener.accept() }

// Addr returns "pageant:".
func (l *Listener) Addr() string { return Addr }

// Close ends the listener, and questions by the window that are not answered. Pipe
// connections that were accepted stay.
func (l *Listener) Close() error { return l.listener.close() }
