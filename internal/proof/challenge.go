package proof

import (
	"errors"
	"fmt"

	"drvsock/internal/wire"
)

const (
	magic   = "drvproof"
	version = 1
	// label parts what is signed here from all else that the secret may sign.
	label     = "drvsock proof 1\n"
	nonceSize = 32

	challengeSize = len(magic) + 4 + nonceSize
)

var errMagic = errors.New("the other end speaks something else")

// A challenge is the first message of each end.
type challenge struct {
	Party
	nonce [nonceSize]byte
}

// append appends the message to b.
func (c *challenge) append(b []byte) []byte {
	b = append(b, magic...)
	b = append(b, version, byte(c.Role), byte(c.Side), 0)
	return append(b, c.nonce[:]...)
}

// prefix tells whether b begins as a challenge does.
func prefix(b []byte) bool {
	n := min(len(b), len(magic))
	return string(b[:n]) == magic[:n]
}

// parseChallenge reads a whole message.
func parseChallenge(b []byte) (challenge, error) {
	var c challenge
	if len(b) != challengeSize {
		return c, fmt.Errorf("challenge of %d bytes, want %d", len(b), challengeSize)
	}
	if !prefix(b) {
		return c, errMagic
	}
	fix := b[len(magic):]
	c.Party = Party{Role: wire.Role(fix[1]), Side: Side(fix[2])}
	switch {
	case fix[0] != version:
		return c, fmt.Errorf("challenge of version %d, want %d", fix[0], version)
	case c.Role != wire.RoleGuest && c.Role != wire.RoleAgent:
		return c, fmt.Errorf("challenge with role %d", fix[1])
	case c.Side != Dialled && c.Side != Listened:
		return c, fmt.Errorf("challenge with side %d", fix[2])
	case fix[3] != 0:
		return c, fmt.Errorf("challenge with reserved byte %d", fix[3])
	}
	copy(c.nonce[:], fix[4:])
	return c, nil
}

// String names the party as messages do.
func (p Party) String() string {
	who := "listened"
	if p.Side == Dialled {
		who = "dialled"
	}
	return fmt.Sprintf("the %s that %s", p.Role, who)
}
