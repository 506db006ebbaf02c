//go:build linux

package wine

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"drvsock/test/rig"
)

// assuanServer has GnuPG's client here reach a server of GnuPG's library there, by
// the file that the library makes of a port and a nonce.
func assuanServer(s *stage) {
	connect := gnupg(s, "gpg-connect-agent")
	d := s.daemon()
	name := d.forward(d.at("s"), "assuan:"+d.windows("S.agent"))
	// client has the server keep n bytes and give them back.
	client := func(i, n int) error {
		data := make([]byte, n)
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(data) // it never fails
		in, out := d.at(fmt.Sprint("in", i)), d.at(fmt.Sprint("out", i))
		if err := os.WriteFile(in, data, 0o600); err != nil {
			return err
		}
		cmd := d.command(0, d.dir, []string{connect, "--homedir", d.dir, "-S", d.at("s")})
		cmd.Stdin = strings.NewReader("/definqfile DATA " + in + "\n/datafile " + out + "\nKEEP\n/bye\n")
		words, code := rig.Output(s.t, cmd, limit)
		got, err := os.ReadFile(out)
		if err != nil || code != 0 || !strings.HasSuffix(words, "OK\n") || !bytes.Equal(got, data) {
			return fmt.Errorf("exit code %d, it prints %q; %d bytes %x came back for %d bytes %x, %w",
				code, words, len(got), sha256.Sum256(got), n, sha256.Sum256(data), err)
		}
		return nil
	}
	server := d.renewed(assuanExe, "serve", "S.agent", func(round int) {
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				if err := client(round*10+i, 1000+i*400_000); err != nil {
					s.t.Errorf("round %d, client %d: %v", round, i, err)
				}
			})
		}
		wg.Wait()
	}, func() {
		if err := client(90, 1); err == nil {
			s.t.Error("a client was served by nobody")
		}
		f := d.forwarded(name)
		if f.Total != 8 || f.LastError == nil || f.LastError.Errno != "ECONNREFUSED" || f.LastError.Layer != "host" {
			s.t.Errorf("forward %+v, last error %+v", f, f.LastError)
		}
	})
	if err := client(91, 1); err == nil {
		s.t.Error("a client with another nonce was served")
	}
	server.says("stranger")
}

// renewed plays part with two servers after each other, which write another port
// and secret to the file, and then nobody with none. At last one serves whose
// file has a wrong secret.
func (d *daemon) renewed(exe, word, name string, part func(round int), nobody func()) *talker {
	t := d.t
	t.Helper()
	file := filepath.Join(d.host, name)
	var texts [3][]byte
	var server *talker
	for round := range texts {
		server = d.start(d.win(exe, word, name)).says("listening")
		var err error
		if texts[round], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		if round == 2 {
			break
		}
		part(round)
		if left, code := server.end(); len(left) > 0 || code != 0 {
			t.Errorf("server: exit code %d, lines %q", code, left)
		}
		if round == 1 {
			nobody()
		}
	}
	if bytes.Equal(texts[0], texts[1]) {
		t.Errorf("both servers wrote %q", texts[0])
	}
	// The first byte of the secret, or digit, is another.
	text := texts[2]
	if k := bytes.IndexByte(text, '\n') + 1; text[0] != '!' {
		text[k] ^= 1
	} else if k = bytes.IndexByte(text, '-') + 1; text[k] == '1' {
		text[k] = '2'
	} else {
		text[k] = '1'
	}
	if err := os.WriteFile(file, texts[2], 0o600); err != nil {
		t.Fatal(err)
	}
	return server
}

// cygwinServer has a program here reach one that greets as Cygwin's do.
func cygwinServer(s *stage) {
	d := s.daemon()
	forwards := map[string]string{"c": "cygwin:", "a": "assuan:"} // which knows both forms
	for sock, prefix := range forwards {
		d.forward(d.at(sock), prefix+d.windows("c"))
	}
	server := d.renewed(winsockExe, "Echo", "c", func(round int) {
		for sock, prefix := range forwards {
			c := d.dial(sock)
			sent, got, err := swap(c, 1<<20+round)
			if err != nil || sent != got {
				s.t.Errorf("%s round %d: %v, %s came back for %s", prefix, round, err, got, sent)
			}
			if err := c.CloseWrite(); err != nil {
				s.t.Error(err)
			}
			d.ended("echo", c)
		}
	}, func() {
		for sock, prefix := range forwards {
			d.ended(prefix+" nobody", d.dial(sock))
			if f := d.forwarded(sock); f.LastError == nil || f.LastError.Errno != "ECONNREFUSED" || f.LastError.Layer != "host" {
				s.t.Errorf("%s %+v, last error %+v", prefix, f, f.LastError)
			}
		}
	})
	for sock, prefix := range forwards {
		d.ended(prefix+" wrong secret", d.dial(sock))
		server.says("stranger")
	}
}

// gnupg finds a program of GnuPG's.
func gnupg(s *stage, name string) string {
	s.t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		need(s.t, err)
	}
	if s.name[assuanExe] == "" {
		need(s.t, errors.New("there is no libassuan for Windows (Debian's libassuan-mingw-w64-dev)"))
	}
	return path
}

// assuanClient has GnuPG's library on Windows reach the agent here, by a file that
// drvsock makes.
func assuanClient(s *stage) {
	connect, agent := gnupg(s, "gpg-connect-agent"), gnupg(s, "gpg-agent")
	d := s.daemon()
	home := d.at("gnupg")
	if err := os.Mkdir(home, 0o700); err != nil {
		s.t.Fatal(err)
	}
	// Where sockets of this home lie depends on the machine; the file says it.
	for _, name := range []string{"S.gpg-agent", "S.gpg-agent.extra", "S.gpg-agent.browser", "S.gpg-agent.ssh"} {
		if err := os.WriteFile(filepath.Join(home, name), []byte("%Assuan%\nsocket="+d.at(name)+"\n"), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	cmd := s.command(0, d.dir, []string{agent, "--homedir", home, "--daemon", "--disable-scdaemon", "--", "cat"})
	cmd.Stderr = nil // what goes on in the background would hold it
	s.start(cmd)
	here := func(args ...string) string {
		cmd := s.command(0, d.dir, append([]string{connect, "--homedir", home, "--no-autostart"}, args...))
		return s.output(cmd)
	}
	s.t.Cleanup(func() { here("KILLAGENT", "/bye") })
	if !soon(limit, func() bool {
		c, err := net.Dial("unix", d.at("S.gpg-agent"))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}) {
		s.t.Fatal("gpg-agent doesn't listen")
	}
	d.forward("assuan:"+d.windows("S.w"), d.at("S.gpg-agent"))
	for _, question := range []string{"GETINFO version", "GETINFO pid"} {
		want, ok := strings.CutSuffix(here(question, "/bye"), "\nOK\n")
		if !ok {
			s.t.Fatalf("here it answers %q", want)
		}
		s.want(question, "D "+s.output(s.win(assuanExe, "ask", s.windows("S.w"), question)), want+"\n")
	}
}

// cygwinClient has a program that greets as Cygwin's do reach a server here.
func cygwinClient(s *stage) {
	d := s.daemon()
	d.forward("cygwin:"+d.windows("c"), d.at("s"))
	server := s.start(s.command(0, d.dir, []string{s.peer(), "post", "s"})).says("Accepting connections on: 's'")
	// Wine keeps it where files have extended attributes.
	s.want("client", strings.TrimPrefix(s.output(s.win(winsockExe, "cygwin", "c")), "no attribute SYSTEM\n"), "af_unix from Windows to WSL!")
	server.wait()
}
