//go:build linux

package forward

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/forward"
)

// A pump is a connection that carries bytes all the time: it writes, and reads
// the same back, until it is stopped.
type pump struct {
	b      *box
	rounds atomic.Int64
	stop   chan struct{}
	done   chan error
}

func (b *box) pump(network, address string) *pump {
	b.Helper()
	c, err := net.Dial(network, address)
	b.check(err)
	p := &pump{b: b, stop: make(chan struct{}), done: make(chan error, 1)}
	go func() {
		defer c.Close()
		p.done <- p.run(c)
	}()
	b.Cleanup(p.end)
	p.goesOn("at first")
	return p
}

func (p *pump) run(c net.Conn) error {
	got := make([]byte, 100_000)
	for i := 0; ; i++ {
		select {
		case <-p.stop:
			return nil
		default:
		}
		data := pattern(1 + i*7919%len(got))
		if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
			return err
		}
		written := make(chan error, 1)
		go func() {
			_, err := c.Write(data)
			written <- err
		}()
		_, err := io.ReadFull(c, got[:len(data)])
		if werr := <-written; err == nil {
			err = werr
		}
		if err != nil {
			return fmt.Errorf("round %d: %w", i, err)
		}
		if !bytes.Equal(got[:len(data)], data) {
			return fmt.Errorf("round %d: other bytes came back", i)
		}
		p.rounds.Add(1)
	}
}

// goesOn wants the connection to carry bytes now.
func (p *pump) goesOn(when string) {
	p.b.Helper()
	before := p.rounds.Load()
	p.b.eventually("the connection carries bytes "+when, func() error {
		select {
		case err := <-p.done:
			p.done <- err
			p.b.Fatalf("%s the connection ended: %v", when, err)
		default:
		}
		if n := p.rounds.Load(); n < before+20 {
			return fmt.Errorf("%d rounds", n-before)
		}
		return nil
	})
}

func (p *pump) end() {
	select {
	case <-p.stop:
		return
	default:
	}
	close(p.stop)
	if err := <-p.done; err != nil {
		p.b.Error(err)
	}
}

// TestReload changes the configuration in every way while connections of both
// directions carry bytes.
func TestReload(t *testing.T) {
	t.Parallel()
	b := upBox(t, 0)
	echo := func(c *net.UnixConn) { _, _ = io.Copy(c, c) }
	for _, path := range []string{b.host("echo"), b.path("echo")} {
		serve(b, path, echo)
	}
	shout(b, b.host("shout"))
	shout(b, b.path("shout"))
	file := b.path("config/drvsock/config.toml")
	write := func(entries ...string) {
		b.file(file, "# by hand\n"+strings.Join(entries, ""))
	}
	entry := func(name, listen, connect string, more ...string) string {
		return fmt.Sprintf("[[forward]]\nname = %q\nlisten = '%s'\nconnect = '%s'\n%s\n", name, listen, connect, strings.Join(more, "\n"))
	}
	here := entry("here", b.path("here"), b.win("echo"))
	there := entry("there", b.win("there"), b.path("echo"))
	write(here, there)
	if out := b.drvsock("reload"); out != "" {
		t.Errorf("reload says %q", out)
	}
	pumps := []*pump{b.pump("unix", b.path("here")), b.pump("unix", b.host("there"))}
	went := func(when string) {
		t.Helper()
		for _, p := range pumps {
			p.goesOn(when)
		}
	}
	inode := func(path string) uint64 {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return 0
		}
		return st.Ino
	}
	state := func(name string) forward.State {
		for _, f := range b.status().Forwards {
			if f.Name == name {
				return f.State
			}
		}
		return "none"
	}
	answers := func(path, want string) {
		t.Helper()
		if got := ask("unix", path); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}

	// More of them: what is unchanged is left as it is, to the file.
	was, wasThere := inode(b.path("here")), inode(b.host("there"))
	third := entry("third", b.path("third"), b.win("shout"))
	write(third, here, there)
	b.drvsock("reload")
	went("after a forward was added")
	answers(b.path("third"), `"HELLO\n"`)
	if inode(b.path("here")) != was || inode(b.host("there")) != wasThere {
		t.Error("listeners that are unchanged were made anew")
	}

	// By the signal, which has no answer.
	write(here, there)
	b.check(unix.Kill(b.status().Daemon.PID, unix.SIGHUP))
	b.eventually("SIGHUP takes the forward away", func() error {
		if s := state("third"); s != "none" {
			return fmt.Errorf("it is %s", s)
		}
		if got := ask("unix", b.path("third")); got != "connect: ENOENT" { // it is closed after it is forgotten
			return fmt.Errorf("a connection: %s", got)
		}
		return nil
	})
	went("after SIGHUP")

	// A wrong file: said where, and nothing changes.
	write(here, strings.Replace(there, "listen", "lisen", 1))
	out := b.fails(1, b.rig.Bin, "reload")
	want := fmt.Sprintf("drvsock: error: %s:9:1: unknown key \"lisen\"\n    9 | lisen = '%s'\n      | ^^^^^\ndrvsock: hint: did you mean listen?\n", file, b.win("there"))
	if out != want {
		t.Errorf("reload of a wrong file says\n%s, want\n%s", out, want)
	}
	if st := b.status(); !strings.Contains(st.Daemon.ConfigError, ":9:1: unknown key") || len(st.Forwards) != 2 {
		t.Errorf("status after a wrong file: %+v", st)
	}
	went("after a wrong file")
	if inode(b.path("here")) != was {
		t.Error("a wrong file changed a listener")
	}

	// The same names, elsewhere: old connections stay where they are, new ones go
	// where the file says.
	write(entry("here", b.path("here"), b.win("shout"), `mode = "0666"`), entry("there", b.win("there"), b.path("shout")))
	b.drvsock("reload")
	went("after both forwards were changed")
	answers(b.path("here"), `"HELLO\n"`)
	answers(b.host("there"), `"HELLO\n"`)
	if st, err := os.Lstat(b.path("here")); err != nil || st.Mode().Perm() != 0o666 {
		t.Errorf("mode of the changed listener: %v, %v", st, err)
	}

	// By commands, which write the file.
	b.drvsock("forward", "--save", "--name", "fourth", "--mode", "0640", b.path("fourth"), b.win("shout"))
	answers(b.path("fourth"), `"HELLO\n"`)
	b.drvsock("forward", "rm", "--save", "here", "there")
	went("after both forwards were removed")
	answers(b.path("here"), "connect: ENOENT")
	answers(b.host("there"), "connect: ENOENT")
	text, err := os.ReadFile(file)
	b.check(err)
	if want := fmt.Sprintf("# by hand\n\n[[forward]]\nname = \"fourth\"\nlisten = %q\nconnect = 'C:\\shout'\nmode = \"0640\"\n", b.path("fourth")); strings.ReplaceAll(string(text), "\n\n\n", "\n\n") != want {
		t.Errorf("the file says\n%s, want\n%s", text, want)
	}
	b.drvsock("reload")
	if got := state("fourth"); got != forward.Listening {
		t.Errorf("the saved forward is %s", got)
	}
	went("after all")
	for _, p := range pumps {
		p.end()
	}

	// What is saved is there after the next start, and what is not isn't.
	b.drvsock("forward", "--name", "passing", b.path("passing"), b.win("shout"))
	b.drvsock("down")
	answers(b.path("fourth"), "connect: ENOENT")
	b.drvsock("up", "--wait", "--embed", "C="+b.rig.Host)
	answers(b.path("fourth"), `"HELLO\n"`)
	if got := state("passing"); got != "none" {
		t.Errorf("a forward that was not saved is %s", got)
	}
}
