package proof

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"drvsock/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	guest = Party{Role: wire.RoleGuest, Side: Dialled}
	agent = Party{Role: wire.RoleAgent, Side: Listened}
)

// both runs the proof at both ends of a pipe.
func both(t *testing.T, a, b Secret, pa, pb Party) (erra, errb error) {
	t.Helper()
	ca, cb := net.Pipe()
	done := make(chan error)
	go func() {
		err := Prove(t.Context(), cb, b, pb)
		if err != nil {
			_ = cb.Close()
		}
		done <- err
	}()
	if erra = Prove(t.Context(), ca, a, pa); erra != nil {
		_ = ca.Close()
	}
	errb = <-done
	_, _ = ca.Close(), cb.Close()
	return erra, errb
}

func TestProve(t *testing.T) {
	s, other := NewSecret(), NewSecret()
	turned := func(p Party) Party { return Party{p.Role, Dialled + Listened - p.Side} }
	cases := []struct {
		name   string
		a, b   Secret
		pa, pb Party
		ok     bool
	}{
		{"guest dials", s, s, guest, agent, true},
		{"agent dials", s, s, turned(guest), turned(agent), true},
		{"other secret", s, other, guest, agent, false},
		{"no secret", s, Secret{}, guest, agent, false},
		{"both guests", s, s, guest, Party{wire.RoleGuest, Listened}, false},
		{"both agents", s, s, Party{wire.RoleAgent, Dialled}, agent, false},
		{"both dialled", s, s, guest, turned(agent), false},
	}
	for _, c := range cases {
		synctest.Test(t, func(t *testing.T) { // two that dial both wait
			erra, errb := both(t, c.a, c.b, c.pa, c.pb)
			if c.ok != (erra == nil && errb == nil) || !c.ok && (erra == nil || errb == nil) {
				t.Errorf("%s: %v and %v, want success: %t", c.name, erra, errb, c.ok)
			}
		})
	}
}

// TestBytesAfter wants the first byte after the proof to be the link's, and no
// deadline left.
func TestBytesAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSecret()
		a, b := net.Pipe()
		go func() {
			defer b.Close()
			if Prove(t.Context(), b, s, agent) == nil {
				time.Sleep(time.Hour)
				_, _ = b.Write([]byte("drvsock\n"))
			}
		}()
		if err := Prove(t.Context(), a, s, guest); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(a); err != nil || string(got) != "drvsock\n" {
			t.Errorf("after the proof: %q, %v", got, err)
		}
	})
}

// wiretap keeps what is written to a connection.
type wiretap struct {
	net.Conn
	wrote bytes.Buffer
}

func (w *wiretap) Write(b []byte) (int, error) {
	w.wrote.Write(b)
	return w.Conn.Write(b)
}

// record runs a good proof and returns what each end wrote.
func record(t *testing.T, s Secret) (dialler, listener []byte) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	wa, wb := &wiretap{Conn: a}, &wiretap{Conn: b}
	done := make(chan error)
	go func() { done <- Prove(t.Context(), wb, s, agent) }()
	if err := errors.Join(Prove(t.Context(), wa, s, guest), <-done); err != nil {
		t.Fatal(err)
	}
	return wa.wrote.Bytes(), wb.wrote.Bytes()
}

// TestOnTheWire holds the form of docs/protocol.md, and that nothing repeats.
func TestOnTheWire(t *testing.T) {
	s := NewSecret()
	d1, l1 := record(t, s)
	d2, l2 := record(t, s)
	head := "drvproof\x01"
	if len(d1) != 76 || len(l1) != 76 || string(d1[:12]) != head+"\x01\x01\x00" || string(l1[:12]) != head+"\x02\x02\x00" {
		t.Errorf("the dialler wrote %q and the listener %q", d1, l1)
	}
	parts := [][]byte{d1[12:44], d1[44:], l1[12:44], l1[44:], d2[12:44], d2[44:], l2[12:44], l2[44:]}
	for i, a := range parts {
		for j, b := range parts[:i] {
			if bytes.Equal(a, b) {
				t.Errorf("parts %d and %d are equal", j, i)
			}
		}
		if bytes.Contains(a, s[:8]) {
			t.Errorf("part %d holds a part of the secret", i)
		}
	}
}

// against runs one end's proof against a script that reads and writes.
func against(t *testing.T, s Secret, as Party, script func(c net.Conn)) error {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer b.Close()
		script(b)
	}()
	err := Prove(t.Context(), a, s, as)
	_ = a.Close()
	<-done
	return err
}

// TestReplay sends what was once heard, and what the victim said itself.
func TestReplay(t *testing.T) {
	s := NewSecret()
	dialler, listener := record(t, s)
	if err := against(t, s, agent, func(c net.Conn) {
		_, _ = c.Write(dialler[:challengeSize])
		_, _ = io.ReadFull(c, make([]byte, challengeSize))
		_, _ = c.Write(dialler[challengeSize:])
	}); !errors.Is(err, ErrWrong) {
		t.Errorf("a dialler that was heard before: %v", err)
	}
	if err := against(t, s, guest, func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, challengeSize))
		_, _ = c.Write(listener[:challengeSize])
		_, _ = io.ReadFull(c, make([]byte, 32))
		_, _ = c.Write(listener[challengeSize:])
	}); !errors.Is(err, ErrWrong) {
		t.Errorf("a listener that was heard before: %v", err)
	}
	if err := against(t, s, guest, func(c net.Conn) { _, _ = io.Copy(c, c) }); err == nil {
		t.Error("an echo has proved something")
	}
	// The echo with the fixed part turned round: the tag is still the dialler's.
	if err := against(t, s, guest, func(c net.Conn) {
		b := make([]byte, challengeSize)
		_, _ = io.ReadFull(c, b)
		copy(b[len(magic):], []byte{version, byte(wire.RoleAgent), byte(Listened), 0})
		_, _ = c.Write(b)
		_, _ = io.CopyN(c, c, 32)
	}); !errors.Is(err, ErrWrong) {
		t.Errorf("a reflection: %v", err)
	}
}

// TestTagIsBound wants all that a tag stands for to be part of it, so that it is
// of no use elsewhere.
func TestTagIsBound(t *testing.T) {
	s := NewSecret()
	d, l := &challenge{Party: guest}, &challenge{Party: agent}
	base := tag(s, Dialled, d, l)
	turn := func(f func(d, l *challenge)) []byte {
		d2, l2 := *d, *l
		f(&d2, &l2)
		return tag(s, Dialled, &d2, &l2)
	}
	others := map[string][]byte{
		"side":             tag(s, Listened, d, l),
		"secret":           tag(Secret{1}, Dialled, d, l),
		"order":            tag(s, Dialled, l, d),
		"roles":            turn(func(d, l *challenge) { d.Role, l.Role = l.Role, d.Role }),
		"dialler's nonce":  turn(func(d, _ *challenge) { d.nonce[31]++ }),
		"listener's nonce": turn(func(_, l *challenge) { l.nonce[0]++ }),
	}
	for name, other := range others {
		if bytes.Equal(base, other) {
			t.Errorf("the tag does not depend on the %s", name)
		}
	}
}

// TestSilent has ends that stop at each byte, or dribble: the time is bounded.
func TestSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSecret()
		dialler, _ := record(t, s)
		for _, n := range []int{0, 1, challengeSize - 1, challengeSize, len(dialler) - 1} {
			a, b := net.Pipe()
			go func() {
				if n > challengeSize {
					_, _ = b.Write(dialler[:challengeSize])
					_, _ = io.ReadFull(b, make([]byte, challengeSize))
					_, _ = b.Write(dialler[challengeSize:n])
				} else {
					_, _ = b.Write(dialler[:n])
				}
			}()
			start := time.Now()
			err := Prove(t.Context(), a, s, agent)
			if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != Limit {
				t.Errorf("silent after %d bytes: %v after %v", n, err, time.Since(start))
			}
			_, _ = a.Close(), b.Close()
		}
		a, b := net.Pipe()
		go func() {
			for _, c := range dialler {
				time.Sleep(Limit / 10)
				if _, err := b.Write([]byte{c}); err != nil {
					return
				}
			}
		}()
		start := time.Now()
		if err := Prove(t.Context(), a, s, agent); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != Limit {
			t.Errorf("one that dribbles: %v after %v", err, time.Since(start))
		}
		_, _ = a.Close(), b.Close()
		time.Sleep(Limit) // until it has noticed
	})
}

func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("no longer wanted")
		ctx, cancel := context.WithCancelCause(t.Context())
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		time.AfterFunc(time.Second, func() { cancel(why) })
		start := time.Now()
		if err := Prove(ctx, a, NewSecret(), agent); !errors.Is(err, why) || time.Since(start) != time.Second {
			t.Errorf("%v after %v, want %v after a second", err, time.Since(start), why)
		}
	})
}

// TestGarbage wants strangers known by their first bytes.
func TestGarbage(t *testing.T) {
	for _, text := range []string{"x", "drvsock\n", "GET / HTTP/1.1\r\n\r\n", "drvproog", ""} {
		start := time.Now()
		err := against(t, NewSecret(), agent, func(c net.Conn) { _, _ = io.WriteString(c, text) })
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) || text != "" && !errors.Is(err, errMagic) || time.Since(start) > Limit/2 {
			t.Errorf("%q: %v after %v", text, err, time.Since(start))
		}
	}
}

func TestSecret(t *testing.T) {
	s := NewSecret()
	for _, f := range []string{"%v", "%s", "%x", "%q", "%d", "%+v", "%#v", "%X"} {
		if got := fmt.Sprintf(f, s); got != "(secret)" {
			t.Errorf("%s: %q", f, got)
		}
	}
	if s == NewSecret() || s == (Secret{}) {
		t.Error("it is not random")
	}
}

func FuzzChallenge(f *testing.F) {
	for _, p := range []Party{guest, agent} {
		c := challenge{Party: p, nonce: [nonceSize]byte{1, 2, 31: 3}}
		f.Add(c.append(nil))
	}
	f.Add([]byte("drvproof"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseChallenge(b)
		if err != nil {
			return
		}
		if got := c.append(nil); !slices.Equal(got, b) {
			t.Errorf("challenge %x came back as %x", b, got)
		}
	})
}

// FuzzStranger lets a stranger say anything: it never gets in, and nothing hangs.
func FuzzStranger(f *testing.F) {
	c := challenge{Party: guest}
	f.Add(append(c.append(nil), make([]byte, 32)...), true)
	c.Party = agent
	f.Add(append(c.append(nil), make([]byte, 32)...), false)
	f.Add([]byte("drv"), true)
	secret := NewSecret()
	f.Fuzz(func(t *testing.T, b []byte, listens bool) {
		as := guest
		if listens {
			as = agent
		}
		if prove(&script{in: bytes.NewReader(b)}, secret, as) == nil {
			t.Errorf("%x got in", b)
		}
	})
}

type script struct{ in io.Reader }

func (s *script) Read(b []byte) (int, error)  { return s.in.Read(b) }
func (s *script) Write(b []byte) (int, error) { return len(b), nil }
