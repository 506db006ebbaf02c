// Package proof lets the two ends of a connection prove to each other that they
// know a secret, before either takes a byte of a link: docs/protocol.md, "Proof
// of identity". Neither the secret nor anything that would help another
// connection crosses the wire.
package proof

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"drvsock/internal/wire"
)

// Limit bounds a whole proof.
const Limit = 3 * time.Second

// A Secret is what both ends know. It prints as nothing of use.
type Secret [wire.SecretSize]byte

// NewSecret makes a secret that nobody else has.
func NewSecret() Secret {
	var s Secret
	_, _ = rand.Read(s[:]) // never fails (crypto/rand)
	return s
}

// Format writes no byte of the secret, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "(secret)") }

// A Side says who made the connection.
type Side uint8

// The two sides of a connection.
const (
	Dialled  Side = 1
	Listened Side = 2
)

// A Party is one end of a connection.
type Party struct {
	Role wire.Role
	Side Side
}

// peer is who must be at the other end.
func (p Party) peer() Party {
	return Party{Role: wire.RoleGuest + wire.RoleAgent - p.Role, Side: Dialled + Listened - p.Side}
}

// ErrWrong says that the other end spoke, but doesn't know the secret.
var ErrWrong = errors.New("the other end doesn't know the secret")

// A Conn is what a proof needs of a connection: net.Conn and os.File have it.
type Conn interface {
	io.ReadWriter
	SetDeadline(t time.Time) error
}

// Prove proves to the other end of c that this one knows the secret and is the
// party as, and has it prove the same. It takes at most Limit, or until ctx ends.
// After an error nothing may be done with c but closing it. After nil c has no
// deadline, and the next byte read from it is the first after the proof.
//
// Who dialled proves first, so that a stranger who knocks learns nothing but
// that somebody listens.
func Prove(ctx context.Context, c Conn, secret Secret, as Party) error {
	if err := c.SetDeadline(time.Now().Add(Limit)); err != nil {
		return fmt.Errorf("proof: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	err := prove(c, secret, as)
	if !stop() {
		return fmt.Errorf("proof: %w", context.Cause(ctx))
	}
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil {
		return fmt.Errorf("proof: %w", err)
	}
	return nil
}

func prove(c io.ReadWriter, secret Secret, as Party) error {
	ours := challenge{Party: as}
	_, _ = rand.Read(ours.nonce[:])
	if as.Side == Dialled {
		if _, err := c.Write(ours.append(nil)); err != nil {
			return err
		}
		theirs, err := readChallenge(c, as)
		if err != nil {
			return err
		}
		if err := sendTag(c, secret, Dialled, &ours, theirs); err != nil {
			return err
		}
		return checkTag(c, secret, Listened, &ours, theirs)
	}
	theirs, err := readChallenge(c, as)
	if err != nil {
		return err
	}
	if _, err := c.Write(ours.append(nil)); err != nil {
		return err
	}
	if err := checkTag(c, secret, Dialled, theirs, &ours); err != nil {
		return err
	}
	return sendTag(c, secret, Listened, theirs, &ours)
}

func readChallenge(c io.Reader, as Party) (*challenge, error) {
	var b [challengeSize]byte
	// A stranger of another protocol shall not have to send that much to be known.
	for n := 0; n < len(b); {
		m, err := c.Read(b[n:])
		n += m
		if !prefix(b[:n]) {
			return nil, errMagic
		}
		if err != nil && n < len(b) {
			return nil, cut(err, n)
		}
	}
	theirs, err := parseChallenge(b[:])
	if err != nil {
		return nil, err
	}
	if want := as.peer(); theirs.Party != want {
		return nil, fmt.Errorf("the other end is %s, want %s", theirs.Party, want)
	}
	return &theirs, nil
}

// tag is what the given side of a connection proves its knowledge by. Both
// challenges, with the roles and sides in them, are part of it, so it is of no
// use on another connection, in the other direction, or for the other role.
func tag(secret Secret, side Side, dialler, listener *challenge) []byte {
	h := hmac.New(sha256.New, secret[:])
	b := append([]byte(label), byte(side))
	b = dialler.append(b)
	h.Write(listener.append(b)) // never fails (hash.Hash)
	return h.Sum(nil)
}

func sendTag(c io.Writer, secret Secret, side Side, dialler, listener *challenge) error {
	_, err := c.Write(tag(secret, side, dialler, listener))
	return err
}

func checkTag(c io.Reader, secret Secret, side Side, dialler, listener *challenge) error {
	var b [sha256.Size]byte
	if n, err := io.ReadFull(c, b[:]); err != nil {
		return cut(err, n)
	}
	if !hmac.Equal(b[:], tag(secret, side, dialler, listener)) {
		return ErrWrong
	}
	return nil
}

// cut says how the other end stopped after n bytes of a message.
func cut(err error, n int) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the other end closed the connection after %d bytes of a message: %w", n, io.ErrUnexpectedEOF)
	}
	return err
}
