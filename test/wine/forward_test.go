//go:build linux

package wine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A pairing is two ends of a forward, with what starts programs at each.
type pairing struct {
	name           string
	listen         string // for drvsock
	connect        string
	flags          []string
	server, client func(args ...string) *exec.Cmd
	path           [2]string // what server and client call their ends
}

// pairings are forwards between this side's socket and what is at host, both
// ways.
func (d *daemon) pairings(host, path string, flags ...string) []pairing {
	here := func(args ...string) *exec.Cmd { return d.command(d.uid, d.dir, append([]string{d.peer()}, args...)) }
	there := func(args ...string) *exec.Cmd { return d.win(peerExe, args...) }
	return []pairing{
		{"server on Windows", d.at("s"), host, nil, there, here, [2]string{path, "s"}},
		{"client on Windows", host, d.at("s"), flags, here, there, [2]string{"s", path}},
	}
}

// talk has programs talk that know half-close.
func (d *daemon) talk(p pairing) {
	s := d.stage
	name := d.forward(append(append([]string{}, p.flags...), p.listen, p.connect)...)
	finish := func(server *talker) {
		s.t.Helper()
		if left, code := server.end(); len(left) > 0 || code != 0 {
			s.t.Errorf("server: exit code %d, lines %q", code, left)
		}
	}
	server := s.start(p.server("echo", p.path[0])).says("listening")
	s.want("swarm", s.output(p.client("swarm", p.path[1], "40", "100000")), "40 connections, 100000 bytes each way on each\n")
	finish(server)

	server = s.start(p.server("answer", p.path[0])).says("listening")
	s.want("ask", s.output(p.client("ask", p.path[1])), "done\n")
	finish(server)

	server = s.start(p.server("first", p.path[0])).says("listening")
	client := s.start(p.client("after", p.path[1]))
	server.says("got" + client.line(limit)[len("sent"):])
	client.says("done")
	finish(server)

	d.activeOf(name, 0)
	f := d.forwarded(name)
	// Of Wine's pipes the first connection is thrown away, and can come through.
	if f.Total < 42 || f.Total > 43 || f.In < 5e6 || f.Out < 5e6 || f.Failed != 0 || f.LastError != nil {
		s.t.Errorf("forward %+v", f)
	}
	d.do("forward", "rm", name)
	if out, err := p.client("get", p.path[1]).CombinedOutput(); err == nil {
		s.t.Errorf("a client where nobody listens any more prints %q", out)
	}
}

// gone waits for a file of the stage's folder to go.
func (s *stage) gone(name string) {
	s.t.Helper()
	soon(limit, func() bool {
		_, err := os.Lstat(filepath.Join(s.host, name))
		return err != nil
	})
	s.absent(name)
}

// socketForwards join Unix sockets of both sides. The caller, and a user who is
// not the account of Windows programs, keep the daemon.
func socketForwards(s *stage) {
	s.accounts(func(s *stage) {
		d := s.daemon()
		for _, p := range d.pairings(d.windows("w"), "w") {
			s.t.Run(p.name, func(t *testing.T) {
				s := *s
				s.t = t
				d := &daemon{&s, d.dir}
				d.talk(p)
				d.gone("w")
			})
		}
		// The guest's name of the same socket, and raw Winsock.
		d.forward(d.at("s"), filepath.Join(d.stage.view, "w"))
		server := s.start(s.win(peerExe, "post", "w")).says("Accepting connections on: 'w'")
		s.want("client", s.output(s.command(s.uid, d.dir, []string{d.peer(), "get", "s"})), "af_unix from Windows to WSL!")
		server.wait()
		d.forward(filepath.Join(d.stage.view, "v"), d.at("l"))
		server = s.start(s.command(s.uid, d.dir, []string{d.peer(), "post", "l"})).says("Accepting connections on: 'l'")
		s.want("client", s.output(s.win(winsockExe, "get", "v")), "af_unix from Windows to WSL!")
		server.wait()
	})
}

// pipesOfWinio has programs at the pipe that take half-close from an empty message,
// as Docker's do.
func pipesOfWinio(s *stage) {
	d := s.daemon()
	for i, p := range d.pairings("", "", "--message") {
		s.t.Run(p.name, func(t *testing.T) {
			s := *s
			s.t = t
			p := p
			pipe := d.pipe(fmt.Sprint(i))
			if i == 0 {
				p.connect, p.path[0] = pipe, pipe
			} else {
				p.listen, p.path[1] = pipe, pipe
			}
			(&daemon{&s, d.dir}).talk(p)
		})
	}
}

// deniedFolders are those that the account of Windows programs may not use: that
// is EACCES, and it is said who says so and of which file.
func deniedFolders(s *stage) {
	d := s.daemon()
	uid, gid := s.wine.User()
	dir := filepath.Join(s.host, "d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = os.Chmod(dir, 0o755) })
	lock := func(mode os.FileMode) {
		for _, err := range []error{os.Chown(dir, uid, gid), os.Chmod(dir, mode)} {
			if err != nil {
				s.t.Fatal(err)
			}
		}
	}
	said := func(text, file string, number int) {
		s.t.Helper()
		if want := fmt.Sprintf("host: EACCES (system error %d): ", number); !strings.Contains(text, want) || !strings.Contains(text, file) {
			s.t.Errorf("%q doesn't say %q of %s", text, want, file)
		}
	}
	kinds := []struct {
		prefix string
		number int
	}{{"", 10013}, {"assuan:", 5}, {"cygwin:", 5}} // WSAEACCES, ERROR_ACCESS_DENIED

	lock(0o555)
	file := s.windows("d/x")
	for _, k := range kinds {
		out, code := d.try("forward", k.prefix+file, d.at("s"))
		if said(out, s.windows("d"), k.number); code != 1 {
			s.t.Errorf("listen on %s%s: exit code %d", k.prefix, file, code)
		}
	}
	s.want("list", d.do("forward", "list"), "")

	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o666); err != nil {
		s.t.Fatal(err)
	}
	lock(0)
	for i, k := range kinds {
		sock := fmt.Sprint("s", i)
		name := d.forward(d.at(sock), k.prefix+file)
		if n, err := d.dial(sock).Read(make([]byte, 1)); n > 0 || err == nil {
			s.t.Errorf("%s%s: read %d bytes, %v", k.prefix, file, n, err)
		}
		f := d.forwarded(name)
		if f.Failed != 1 || f.LastError == nil || f.LastError.Errno != "EACCES" || f.LastError.Layer != "host" {
			s.t.Fatalf("%s%s: %+v, last error %+v", k.prefix, file, f, f.LastError)
		}
		said(f.LastError.Text, file, k.number)
		_, text, _ := strings.Cut(d.do("status"), "\n"+name+" ")
		_, text, _ = strings.Cut(text, " ago: ")
		text, _, _ = strings.Cut(text, "\n")
		s.want("status", text, f.LastError.Text)
	}
}
