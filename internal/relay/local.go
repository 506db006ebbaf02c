package relay

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// A Tally counts bytes that Local has moved; it may be read at any time.
type Tally struct{ AToB, BToA atomic.Uint64 }

// Local relays between two sockets of this system, both ways, until both
// directions are over. It owns both and closes both; closing them elsewhere ends
// it. The error says why the connection did not end in an orderly way, for the
// log. As with Join, what one program's end of the connection shows is what a
// direct connection would show, with one exception: where the other program
// closes without having read everything, an AF_UNIX program sees ECONNRESET only
// if Local had not taken all its bytes yet, else the end and EPIPE. The kernel
// offers no other way to say it from outside of the program.
func Local(a, b Conn, t *Tally) error {
	if t == nil {
		t = new(Tally)
	}
	l := &local{ends: [2]*party{newParty(a), newParty(b)}}
	back := make(chan struct{})
	go func() {
		defer close(back)
		l.carry(1, &t.BToA)
	}()
	l.carry(0, &t.AToB)
	<-back
	return l.close()
}

// A local is one connection between two sockets. Direction i reads ends[i] and
// writes the other.
type local struct {
	ends [2]*party

	mu     sync.Mutex
	failed error
	over   [2]bool // direction i is over
	linger [2]bool // direction i has read its end and waits for the hangup
	abort  [2]bool // the program of end i shall see ECONNRESET
}

// A party is one socket; see local_linux.go for what is asked of it.
type party struct {
	conn Conn
	partySocket
}

// carry moves what the program of end i writes.
func (l *local) carry(i int, moved *atomic.Uint64) {
	src, dst := l.ends[i], l.ends[1-i]
	defer l.finish(i)
	for {
		b, err := src.read()
		if b != nil {
			n, werr := dst.conn.Write(b.bytes())
			b.free()
			moved.Add(uint64(n))
			if werr != nil {
				l.unwritable(i, werr)
				return
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			if src.hangup() {
				l.gone(i)
				return
			}
			_ = dst.conn.CloseWrite()
			if l.mayLinger(i) && src.waitHangup(func() bool { return l.isOver(1 - i) }) {
				l.gone(i)
			}
			return
		default: // it closed with bytes unread
			l.reset(1-i, err)
			dst.closeRead()
			return
		}
	}
}

// unwritable handles that the program of the other end takes no more.
func (l *local) unwritable(i int, err error) {
	if l.ends[1-i].hangup() {
		l.reset(i, err) // as for one whose peer closes with bytes unread
	}
	l.ends[i].closeRead()
}

// gone handles that the program of end i has closed it: the other one's reads
// end and its writes fail.
func (l *local) gone(i int) {
	other := l.ends[1-i]
	if other.unread() {
		l.reset(1-i, nil)
	}
	_ = other.conn.CloseWrite()
	other.closeRead()
}

// reset notes that the program of end i shall see ECONNRESET when the other
// direction has brought it what there was.
func (l *local) reset(i int, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.abort[i] = true
	if l.failed == nil {
		l.failed = why
	}
}

func (l *local) mayLinger(i int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.linger[i] = !l.over[1-i]
	return l.linger[i]
}

func (l *local) isOver(i int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over[i]
}

// finish marks direction i as over and wakes the other one if all that it
// waits for is a hangup.
func (l *local) finish(i int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over[i] = true
	if l.linger[1-i] {
		_ = l.ends[1-i].conn.SetReadDeadline(time.Unix(1, 0))
	}
}

func (l *local) close() error {
	for i, e := range l.ends {
		if l.abort[i] {
			if t, ok := e.conn.(interface{ SetLinger(sec int) error }); ok {
				_ = t.SetLinger(0) // TCP: close sends RST
			}
		}
		_ = e.conn.Close()
	}
	return l.failed
}

// A piece is what one read brought.
type piece struct {
	b []byte
	n int
}

var pieces = sync.Pool{New: func() any { return &piece{b: make([]byte, 64<<10)} }}

func (p *piece) bytes() []byte { return p.b[:p.n] }
func (p *piece) free()         { pieces.Put(p) }

// readConn is a read of a Conn that is no file descriptor: it holds a buffer while
// it waits.
func readConn(c Conn) (*piece, error) {
	p := pieces.Get().(*piece)
	var err error
	p.n, err = c.Read(p.b)
	if p.n == 0 {
		p.free()
		return nil, err
	}
	return p, err
}
