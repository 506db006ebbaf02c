package link

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

const (
	quoteMax  = 200                    // bytes quoted of what came instead of a hello
	quoteWait = 250 * time.Millisecond // and how long the rest of it is waited for
)

// hello exchanges hellos, or closes the transport and says why it could not.
func (l *Link) hello(ours *wire.Hello) error {
	// Both sides send first, so over a transport without any buffer the write
	// ends only when the peer reads: it must not hold up our own reading.
	wrote := make(chan error, 1)
	go func() {
		_, err := l.rw.Write(ours.Append(nil))
		wrote <- err
	}()
	read := make(chan error, 1)
	go func() { read <- l.readHello(ours) }()

	timer := time.NewTimer(l.cfg.HelloTimeout)
	defer timer.Stop()
	var err error
	for n := 0; n < 2 && err == nil; {
		select {
		case err = <-read:
			n++
		case werr := <-wrote:
			n++
			if werr != nil {
				// What the peer said before it stopped reading explains more.
				select {
				case err = <-read:
				case <-time.After(quoteWait):
				}
				if err == nil {
					err = errno.Errorf(errno.ECONNRESET, errno.LayerLink, "%v", werr)
				}
			}
		case <-timer.C:
			err = errno.Errorf(errno.ETIMEDOUT, errno.LayerLink, "no hello within %v", l.cfg.HelloTimeout)
		}
	}
	if err != nil {
		_ = l.rw.Close()
		return fmt.Errorf("hello of the link: %w", err)
	}
	return nil
}

func (l *Link) readHello(ours *wire.Hello) error {
	b, err := l.in.peek(wire.HelloSize)
	if !strings.HasPrefix(wire.Magic, string(b[:min(len(b), len(wire.Magic))])) {
		return l.notHello()
	}
	if err != nil {
		if len(b) > 0 && len(b) < wire.HelloSize {
			return errno.Errorf(errno.EPROTO, errno.LayerLink, "hello cut short after %d bytes", len(b))
		}
		return readError(err)
	}
	n, err := wire.HelloRest(b)
	if err != nil {
		return errno.Errorf(errno.EPROTO, errno.LayerLink, "%v", err)
	}
	if b, err = l.in.peek(wire.HelloSize + n); err != nil {
		return errno.Errorf(errno.EPROTO, errno.LayerLink, "hello cut short after %d bytes", len(b))
	}
	if l.peer, err = wire.ParseHello(b); err == nil {
		_, err = wire.Agree(ours, &l.peer)
	}
	if err != nil {
		return errno.Errorf(errno.EPROTO, errno.LayerLink, "%v", err)
	}
	l.in.skip(len(b))
	return nil
}

func readError(err error) error {
	if errors.Is(err, io.EOF) {
		return errno.Errorf(errno.ECONNRESET, errno.LayerLink, "the other side ended without a word")
	}
	return errno.Errorf(errno.ECONNRESET, errno.LayerLink, "%v", err)
}

// notHello quotes what came first: usually a shell or a login that says why
// the agent did not start.
func (l *Link) notHello() error {
	t := time.AfterFunc(quoteWait, func() { _ = l.rw.Close() })
	b, _ := l.in.peek(quoteMax)
	t.Stop()
	return errno.Errorf(errno.EPROTO, errno.LayerLink, "%v, but %q", wire.ErrMagic, printable(b))
}

// printable gives the first bytes of b as one line of text.
func printable(b []byte) string {
	b = b[:min(len(b), quoteMax)]
	// The cut may have left a part of a character.
	for i := 0; i < utf8.UTFMax && len(b) > 0; i++ {
		if r, n := utf8.DecodeLastRune(b); r != utf8.RuneError || n != 1 {
			break
		}
		b = b[:len(b)-1]
	}
	s := strings.Map(func(r rune) rune {
		switch {
		case r == 0: // UTF-16, as Windows' own tools write
			return -1
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return '.'
		}
		return r
	}, string(b))
	return strings.Join(strings.Fields(s), " ")
}
