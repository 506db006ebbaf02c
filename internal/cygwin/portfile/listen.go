package portfile

import (
	"bytes"
	"container/list"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"sync"
	"time"

	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

const (
	// maxUnproven is how many connections may not have sent the secret yet. When
	// one more comes the oldest goes: who has the secret sends it at once.
	maxUnproven = 64
	// maxWaiting is how many proven connections may wait for Accept. Further ones
	// are closed, as Windows refuses those that a backlog has no room for.
	maxWaiting = 128

	minPause = 5 * time.Millisecond
	maxPause = time.Second
)

// ErrSecret is what Greet returns for a connection with another secret.
var ErrSecret = errno.Errorf(errno.EACCES, errno.LayerUnknown, "wrong secret")

// A Listener listens by a stand-in. Its methods may be used at the same time.
type Listener struct {
	cfg    Config
	log    *slog.Logger
	tcp    *net.TCPListener
	secret Secret
	text   []byte // of the file

	proven chan accepted
	done   chan struct{} // closed by Close
	wg     sync.WaitGroup

	mu       sync.Mutex
	over     bool
	unproven list.List // of *net.TCPConn, the oldest first
}

type accepted struct {
	conn   *net.TCPConn
	caller wire.Caller
}

// Listen makes the stand-in at cfg.Path and listens. Nobody can connect by it before.
// What lies there is replaced if it is a stand-in on whose port nobody listens
// or somebody who doesn't know its secret; else it stays, and the error is
// EADDRINUSE. To find out takes a connection with that secret, which a live
// listener sees come and go.
func Listen(cfg Config) (*Listener, error) {
	l := &Listener{cfg: cfg, log: cfg.Log, proven: make(chan accepted, maxWaiting), done: make(chan struct{})}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if _, err := rand.Read(l.secret[:]); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{KeepAlive: -1, Control: Exclusive}
	tcp, err := lc.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l.tcp = tcp.(*net.TCPListener)
	l.text = cfg.Format(uint16(l.tcp.Addr().(*net.TCPAddr).Port), l.secret)
	if err := claim(&l.cfg, l.text); err != nil {
		_ = l.tcp.Close()
		return nil, err
	}
	l.wg.Go(l.run)
	return l, nil
}

// Accept returns the next connection whose client has proven itself, and what is
// known of that client. After Close it returns net.ErrClosed.
func (l *Listener) Accept() (*net.TCPConn, wire.Caller, error) {
	select {
	case <-l.done:
		return nil, wire.Caller{}, net.ErrClosed
	default:
	}
	select {
	case a := <-l.proven:
		return a.conn, a.caller, nil
	case <-l.done:
		return nil, wire.Caller{}, net.ErrClosed
	}
}

// Addr returns the path of the file.
func (l *Listener) Addr() string { return l.cfg.Path }

// Lost tells whether the file isn't there any more, or says something else. What
// can't be read may still be it.
func (l *Listener) Lost() bool {
	now, err := readOnce(l.cfg.Path)
	return err == nil && !bytes.Equal(now, l.text) || errors.Is(err, fs.ErrNotExist)
}

// Close ends the listener, closes the connections that nobody has accepted and
// removes the file if it still is the one that Listen made. It waits for nothing
// but this process, and on Windows up to half a second for one that reads the file.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.over {
		l.mu.Unlock()
		return nil
	}
	l.over = true
	close(l.done)
	for e := l.unproven.Front(); e != nil; e = e.Next() {
		_ = e.Value.(*net.TCPConn).Close()
	}
	l.mu.Unlock()
	err := release(l.cfg.Path, l.text)
	err = errors.Join(err, l.tcp.Close())
	l.wg.Wait()
	for {
		select {
		case a := <-l.proven:
			_ = a.conn.Close()
		default:
			return err
		}
	}
}

// run takes connections from the system. It never waits for a client.
func (l *Listener) run() {
	pause := minPause
	for {
		conn, err := l.tcp.AcceptTCP()
		if err == nil {
			pause = minPause
			l.begin(conn)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		// Out of descriptors or memory, or a client that has gone already: the
		// listener itself is sound.
		l.log.Warn("accept", "file", l.cfg.Path, "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-l.done:
			return
		}
		pause = min(2*pause, maxPause)
	}
}

// begin starts the greeting of a new connection, in place of the oldest one if
// there are too many.
func (l *Listener) begin(conn *net.TCPConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		_ = conn.Close()
		return
	}
	if l.unproven.Len() >= maxUnproven {
		oldest := l.unproven.Remove(l.unproven.Front()).(*net.TCPConn)
		_ = oldest.Close()
	}
	e := l.unproven.PushBack(conn)
	l.wg.Go(func() { l.greet(conn, e) })
}

func (l *Listener) greet(conn *net.TCPConn, e *list.Element) {
	until := time.Now().Add(greetTime)
	err := conn.SetDeadline(until)
	var caller wire.Caller
	if err == nil {
		caller, err = l.cfg.Greet(conn, l.secret, until)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unproven.Remove(e) // nothing for one that had to go
	if err == nil && l.over {
		err = net.ErrClosed
	}
	if err == nil {
		select {
		case l.proven <- accepted{conn, caller}:
			return
		default:
			err = errno.Errorf(errno.EAGAIN, errno.LayerUnknown, "%d connections wait already", maxWaiting)
		}
	}
	_ = conn.Close()
	if !l.over {
		l.log.Info("connection refused", "file", l.cfg.Path, "error", err)
	}
}

// CheckSecret reads the secret that a client begins with, and returns ErrSecret
// for a wrong one.
func CheckSecret(conn io.Reader, want Secret) error {
	var got Secret
	if _, err := io.ReadFull(conn, got[:]); err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
		return ErrSecret
	}
	return nil
}
