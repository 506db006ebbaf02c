//go:build linux

package wine

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// size is what goes over a pipe each way, in bytes.
const size = 4 << 20

// still is how long a program must not be told something.
const still = 300 * time.Millisecond

// Errors of Windows.
const (
	brokenPipe   = "109" // ERROR_BROKEN_PIPE
	notConnected = "233" // ERROR_PIPE_NOT_CONNECTED
)

// hand starts the program that makes calls of pipes by hand.
func (s *stage) hand() *talker { return s.start(s.win(pipeExe, "hand")) }

// pipe is the name of a pipe that no other test has.
func (s *stage) pipe(name string) string { return `\\.\pipe\drvsock-` + s.id + `-` + name }

// A hands is one connection: here and at the pipe.
type hands struct {
	*stage
	here  *net.UnixConn
	there *talker
	end   string // there
}

// bytes goes both ways at once.
func (h hands) bytes(n int) {
	h.t.Helper()
	h.there.ask("swap %s %d", h.end, n)
	sent, got, err := swap(h.here, n)
	if err != nil {
		h.t.Fatal(err)
	}
	h.want("swap", h.there.line(limit), "ok "+got+" "+sent)
}

// up and down go one way.
func (h hands) up(n int) {
	h.t.Helper()
	h.there.ask("recv %s %d", h.end, n)
	sent, err := send(h.here, n)
	if err != nil {
		h.t.Fatal(err)
	}
	h.want("to the pipe", h.there.line(limit), "ok "+sent)
}

func (h hands) down(n int) {
	h.t.Helper()
	h.there.ask("send %s %d", h.end, n)
	got, err := recv(h.here, n)
	if err != nil {
		h.t.Fatal(err)
	}
	h.want("from the pipe", h.there.line(limit), "ok "+got)
}

// guestFirst has the end here close its direction first, and then all.
func (h hands) guestFirst(message bool) {
	h.t.Helper()
	h.bytes(size)
	if err := h.here.CloseWrite(); err != nil {
		h.t.Fatal(err)
	}
	if message {
		h.there.wants("ok 0", "read %s", h.end)
		h.down(size)
		h.there.wants("ok", "end %s", h.end)
		h.ended("after the empty message", h.here)
		h.there.wants("ok", "close %s", h.end)
		return
	}
	// Nothing can tell the program there, and its own direction stays.
	h.down(size)
	h.there.ask("read %s", h.end)
	if !h.there.quiet(still) {
		h.t.Error("a pipe in byte mode has got an end of one direction")
	}
	if err := h.here.Close(); err != nil {
		h.t.Fatal(err)
	}
	h.there.says(brokenPipe)
	h.there.wants("ok", "close %s", h.end)
}

// hostFirst has the end at the pipe close first.
func (h hands) hostFirst(message bool) {
	h.t.Helper()
	if message {
		h.down(size)
		h.there.wants("ok", "end %s", h.end)
		h.ended("after the empty message", h.here)
		h.up(size)
		if err := h.here.CloseWrite(); err != nil {
			h.t.Fatal(err)
		}
		h.there.wants("ok 0", "read %s", h.end)
		h.there.wants("ok", "close %s", h.end)
		return
	}
	h.up(size)
	h.there.ask("send %s 100000", h.end)
	sent := strings.TrimPrefix(h.there.line(limit), "ok ")
	h.there.ask("close %s", h.end)
	got, err := recv(h.here, 100000)
	if err != nil {
		h.t.Fatal(err)
	}
	h.want("last words", got, sent)
	h.ended("after the pipe's close", h.here)
	h.there.says("ok")
	_ = h.here.Close()
}

// modes plays part with pipes of both modes.
func (s *stage) modes(part func(d *daemon, mode string)) {
	for _, mode := range []string{"byte", "message"} {
		s.t.Run(mode, func(t *testing.T) { part(s.world.stage(t).daemon(), mode) })
	}
}

// pipeServer has a program here reach a server at a pipe.
func pipeServer(s *stage) {
	s.modes(func(d *daemon, mode string) {
		pipe, message := d.pipe(mode), mode == "message"
		d.forward(d.at("s"), pipe)
		there := d.hand()
		begin := func(end string) hands {
			there.wants("ok", "serve-%s %s %s", mode, end, pipe)
			here := d.dial("s")
			there.wants("ok", "accept %s", end)
			return hands{d.stage, here, there, end}
		}
		begin("1").guestFirst(message)
		begin("2").hostFirst(message)
		a, b := begin("3"), begin("4")
		b.bytes(1000)
		a.bytes(1000)
		b.bytes(1)
		there.end()

		// Nobody serves it any more.
		c := d.dial("s")
		if b := make([]byte, 1); true {
			if n, err := c.Read(b); n > 0 || err == nil {
				d.t.Errorf("read: %d bytes, %v, where nobody serves the pipe", n, err)
			}
		}

		echo := d.start(d.win(pipeExe, "echo", mode, pipe)).says("listening")
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				c := d.dial("s")
				sent, got, err := swap(c, 10000+i*10000)
				if err != nil || sent != got {
					d.t.Errorf("connection %d: %v, %s came back for %s", i, err, got, sent)
				}
				if message {
					if err := c.CloseWrite(); err != nil {
						d.t.Error(err)
					}
					d.ended("echo", c)
				}
				_ = c.Close()
			})
		}
		wg.Wait()
		echo.end()
	})
}

// pipeClient has Windows programs reach a server here by a pipe of drvsock's.
func pipeClient(s *stage) {
	s.modes(func(d *daemon, mode string) {
		pipe, message := d.pipe(mode), mode == "message"
		l := d.listen("s")
		name := d.forward("--message="+fmt.Sprint(message), pipe, d.at("s"))
		there := d.hand()
		begin := func(end string) hands {
			there.wants("ok", "connect %s %s", end, pipe)
			return hands{d.stage, d.accept(l), there, end}
		}
		begin("1").guestFirst(message)
		begin("2").hostFirst(message)
		var open []hands
		for i := range 7 {
			open = append(open, begin(fmt.Sprint(3+i)))
		}
		for i := range open {
			open[len(open)-1-i].bytes(100 + i)
		}

		// Who they are.
		var pid uint32
		if _, err := fmt.Sscanf(there.do("pid"), "ok %d", &pid); err != nil {
			d.t.Fatal(err)
		}
		d.activeOf(name, len(open))
		f := d.forwarded(name)
		for _, c := range f.Callers {
			if c.Side != "host" || c.PID != pid || c.Program != pipeExe || !strings.HasSuffix(c.User, `\`+d.account()) {
				d.t.Errorf("caller %+v, want %s, process %d of %s", c, pipeExe, pid, d.account())
			}
		}
		if want := fmt.Sprintf("pid=%d program=%s", pid, pipeExe); !strings.Contains(d.log(), want) {
			d.t.Errorf("the log doesn't say %s:\n%s", want, d.log())
		}
		for _, h := range open {
			h.there.wants("ok", "close %s", h.end)
			h.ended("after the client's close", h.here)
			_ = h.here.Close()
		}
		there.end()

		// All that went over, told to the byte.
		d.activeOf(name, 0)
		few := uint64(100 + 101 + 102 + 103 + 104 + 105 + 106)
		in, out := 3*size+few, 2*size+few
		if !message {
			in = 2*size + 100000 + few
		}
		if f := d.forwarded(name); f.Total != 9 || f.In != in || f.Out != out || f.Failed != 0 || f.LastError != nil {
			d.t.Errorf("forward %+v, want 9 connections, %d bytes in, %d out", f, in, out)
		}
	})
}

// activeOf waits until so many connections of a forward are open.
func (d *daemon) activeOf(name string, n int) {
	d.t.Helper()
	if !soon(limit, func() bool { return d.forwarded(name).Active == n }) {
		d.t.Errorf("%d connections of %s are open, want %d", d.forwarded(name).Active, name, n)
	}
}

// refusedCaller is a client that the forward's rule doesn't name.
func refusedCaller(s *stage) {
	d := s.daemon()
	d.listen("s")
	nobody := d.forward("--name=nobody", `--allow-user=NT AUTHORITY\NETWORK SERVICE`, d.pipe("n"), d.at("s"))
	account := d.forward("--name=account", "--allow-user="+strings.ToUpper(d.account()), d.pipe("a"), d.at("s"))
	there := d.hand()
	there.wants("ok", "connect 1 %s", d.pipe("n"))
	there.wants(brokenPipe, "read 1")
	f := d.forwarded(nobody)
	if f.Refused != 1 || f.Total != 0 || f.LastError == nil || f.LastError.Errno != "EACCES" || !strings.Contains(f.LastError.Text, `\`+d.account()) {
		d.t.Errorf("forward %+v, last error %+v", f, f.LastError)
	}
	there.wants("ok", "connect 2 %s", d.pipe("a"))
	d.activeOf(account, 1)
}

// dacls are what a Windows program reads of those that drvsock made. Wine keeps
// those of pipes and lets everyone in; of a file it has the permission bits.
func dacls(s *stage) {
	d := s.daemon()
	there := d.hand()
	sid := strings.TrimPrefix(there.do("sid"), "ok ")
	own := "ok D:P(A;;FA;;;" + sid + ")"
	for i, c := range []struct {
		flags  []string
		others string
	}{
		{nil, ""},
		{[]string{"--message"}, ""},
		{[]string{"--access=S-1-1-0", "--access=" + d.account()}, "(A;;0x12019b;;;WD)"},
		{[]string{`--access=BUILTIN\Users`, "--access=S-1-5-20"}, "(A;;0x12019b;;;BU)(A;;0x12019b;;;NS)"},
	} {
		pipe := d.pipe(fmt.Sprint(i))
		d.forward(append(c.flags, pipe, d.at("s"))...)
		there.wants("ok", "connect %d %s", i, pipe)
		// Windows makes file rights of generic ones, Wine leaves them.
		for _, how := range []string{fmt.Sprint("dacl ", i), "named " + pipe} {
			d.want(how, strings.Replace(there.do("%s", how), "(A;;GA;;;", "(A;;FA;;;", 1), own+c.others)
		}
	}
	out, code := d.try("forward", "--access=nosuchaccount", d.pipe("x"), d.at("s"))
	if want := `there is no account "nosuchaccount"`; code != 1 || !strings.Contains(out, want) {
		d.t.Errorf("exit code %d, want 1; it says %q, want %q", code, out, want)
	}
	there.wants("2", "connect 9 %s", d.pipe("x")) // ERROR_FILE_NOT_FOUND

	for i, c := range []struct {
		kind, access string
		others       os.FileMode
	}{
		{"", "", 0}, {"assuan:", "", 0}, {"cygwin:", "", 0},
		// To connect takes writing to a socket and reading one of the other files.
		{"", "S-1-1-0", 6}, {"assuan:", "S-1-1-0", 4}, {"cygwin:", "S-1-1-0", 4},
	} {
		name := fmt.Sprint("file-", i)
		var flags []string
		if c.access != "" {
			flags = []string{"--access", c.access}
		}
		d.forward(append(flags, c.kind+d.windows(name), d.at("s"))...)
		st, err := os.Stat(filepath.Join(d.host, name))
		if err != nil {
			d.t.Fatal(err)
		}
		if got := st.Mode().Perm(); got&0o600 != 0o600 || got&0o006 != c.others {
			d.t.Errorf("%s with access for %q has mode %o", c.kind, c.access, got)
		}
	}
}
