//go:build linux

package wine

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"drvsock/internal/control"
	"drvsock/internal/forward"
	"drvsock/test/rig"
)

// A daemon is one of a stage's own, whose agent is drvsock.exe.
type daemon struct {
	*stage
	dir string // for sockets of the guest; in it are the daemon's folders
}

// newDaemon is a place for a daemon that none runs in yet.
func (s *stage) newDaemon() *daemon {
	s.t.Helper()
	d := &daemon{stage: s, dir: rig.Dir(s.t)}
	for _, dir := range []string{"", "run", "config", "config/drvsock"} {
		dir = filepath.Join(d.dir, dir)
		err := os.MkdirAll(dir, 0o700)
		if err == nil && s.uid != 0 {
			err = os.Chown(dir, int(s.uid), int(s.uid))
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	s.t.Cleanup(func() {
		if _, code := d.try("status"); code == 0 {
			d.do("down")
		}
	})
	return d
}

// daemon starts one, as its user would.
func (s *stage) daemon() *daemon {
	s.t.Helper()
	d := s.newDaemon()
	d.do("up", "--wait", "--link", s.link(), "--drive", "C="+s.world.view)
	return d
}

// at is a path in the daemon's folder.
func (d *daemon) at(name string) string { return filepath.Join(d.dir, name) }

// drvsock is the program with args, under the daemon's account.
func (d *daemon) drvsock(args ...string) *exec.Cmd {
	cmd := d.command(d.uid, d.dir, append([]string{d.bin}, args...))
	cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+d.at("run"), "XDG_CONFIG_HOME="+d.at("config"), "HOME="+d.dir)
	return cmd
}

// try runs drvsock and returns what it says and its exit code.
func (d *daemon) try(args ...string) (string, int) {
	d.t.Helper()
	cmd := d.drvsock(args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, code := rig.Output(d.t, cmd, limit)
	return out + errs.String(), code
}

// do is try for what must work.
func (d *daemon) do(args ...string) string {
	d.t.Helper()
	out, code := d.try(args...)
	if code != 0 {
		d.t.Fatalf("drvsock %q: exit code %d: %s", args, code, out)
	}
	return out
}

// forward makes one that listens and returns its name.
func (d *daemon) forward(args ...string) string {
	d.t.Helper()
	out := d.do(append([]string{"forward"}, args...)...)
	name, rest, _ := strings.Cut(out, ": ")
	n := len(args)
	d.want("forward", rest, fmt.Sprintf("listening on %s for %s\n", args[n-2], args[n-1]))
	return name
}

func (d *daemon) status() control.Status {
	d.t.Helper()
	var st control.Status
	if err := json.Unmarshal([]byte(d.do("status", "--json")), &st); err != nil {
		d.t.Fatal(err)
	}
	return st
}

// forwarded is the state of the forward of that name.
func (d *daemon) forwarded(name string) forward.Status {
	d.t.Helper()
	for _, f := range d.status().Forwards {
		if f.Name == name {
			return f
		}
	}
	d.t.Fatalf("no forward %s", name)
	return forward.Status{}
}

// log is what the daemon has written.
func (d *daemon) log() string {
	d.t.Helper()
	b, err := os.ReadFile(d.at("run/drvsock/daemon.log"))
	if err != nil {
		d.t.Fatal(err)
	}
	return string(b)
}

// dial connects to a socket in the daemon's folder, for as long as the test.
func (d *daemon) dial(name string) *net.UnixConn {
	d.t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: d.at(name), Net: "unix"})
	if err != nil {
		d.t.Fatal(err)
	}
	return d.bounded(c)
}

func (d *daemon) bounded(c *net.UnixConn) *net.UnixConn {
	d.t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		d.t.Fatal(err)
	}
	return c
}

// listen listens on a socket in the daemon's folder, for as long as the test.
func (d *daemon) listen(name string) *net.UnixListener {
	d.t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.at(name), Net: "unix"})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = l.Close() })
	return l
}

// accept waits for a client.
func (d *daemon) accept(l *net.UnixListener) *net.UnixConn {
	d.t.Helper()
	err := l.SetDeadline(time.Now().Add(limit))
	if err != nil {
		d.t.Fatal(err)
	}
	c, err := l.AcceptUnix()
	if err != nil {
		d.t.Fatal(err)
	}
	return d.bounded(c)
}

// Both of send and recv say what went over by its SHA-256.
func send(c io.Writer, n int) (string, error) {
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.Int())
	}
	sum := sha256.New()
	_, err := io.CopyN(io.MultiWriter(sum, plain{c}), rand.NewChaCha8(seed), int64(n))
	return fmt.Sprintf("%x", sum.Sum(nil)), err
}

func recv(c io.Reader, n int) (string, error) {
	sum := sha256.New()
	_, err := io.CopyN(sum, c, int64(n))
	return fmt.Sprintf("%x", sum.Sum(nil)), err
}

// plain hides all other methods of a Writer.
type plain struct{ io.Writer }

// swap sends and receives n bytes at the same time.
func swap(c net.Conn, n int) (sent, got string, err error) {
	type result struct {
		sum string
		err error
	}
	done := make(chan result, 1)
	go func() {
		sum, err := send(c, n)
		done <- result{sum, err}
	}()
	got, err = recv(c, n)
	r := <-done
	return r.sum, got, errors.Join(err, r.err)
}

// ended wants the end of what c sends, and nothing before it.
func (s *stage) ended(what string, c io.Reader) {
	s.t.Helper()
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
		s.t.Errorf("%s: %d bytes and %v, want the end", what, len(b), err)
	}
}
