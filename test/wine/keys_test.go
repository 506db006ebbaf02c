//go:build linux

package wine

import (
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
)

// openSSH finds a program of OpenSSH's.
func openSSH(s *stage, name string) string {
	s.t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		need(s.t, err)
	}
	return path
}

// pageantIsOurs keeps Pageant's window, of which a session has one, for this test.
func (s *stage) pageantIsOurs() {
	s.t.Helper()
	release, err := s.wine.Alone(s.t.Context(), "pageant")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(release)
}

// pageantServer has ssh-add here see the keys of an agent there that has Pageant's
// window and nothing else.
func pageantServer(s *stage) {
	add := openSSH(s, "ssh-add")
	s.pageantIsOurs()
	d := s.daemon()
	name := d.forward(d.at("s"), "pageant:")
	list := func() (string, int) {
		cmd := s.command(0, d.dir, []string{add, "-l"})
		cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+d.at("s"))
		return s.both(cmd), cmd.ProcessState.ExitCode()
	}
	if out, code := list(); code == 0 {
		s.t.Errorf("where no Pageant is, ssh-add prints %q", out)
	}
	if f := d.forwarded(name); f.LastError == nil || f.LastError.Errno != "ECONNREFUSED" || !strings.Contains(f.LastError.Text, "Pageant") {
		s.t.Errorf("last error %+v", f.LastError)
	}
	cmd := s.win(pageantExe, "serve")
	cmd.Stderr = nil // Wine's desktop, which starts with the first window, holds it
	server := s.start(cmd).says("listening")
	out, code := list()
	if code != 0 || !strings.HasPrefix(out, "256 SHA256:") || !strings.HasSuffix(out, " from Pageant (ED25519)\n") {
		s.t.Errorf("ssh-add: exit code %d, %q", code, out)
	}
	// A question and its answer to the byte, of nearly the size that PuTTY bears.
	c := d.dial("s")
	question := make([]byte, 8000)
	for i := range question {
		question[i] = byte(i*7 + i/256)
	}
	for range 3 {
		got, err := ask(c, question)
		if err != nil || string(got) != string(question) {
			s.t.Errorf("answer of %d bytes, %v", len(got), err)
		}
	}
	server.end()
}

// ask asks an agent.
func ask(c net.Conn, question []byte) ([]byte, error) {
	if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(question))), question...)); err != nil {
		return nil, err
	}
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return nil, err
	}
	answer := make([]byte, min(binary.BigEndian.Uint32(head[:]), 1<<18))
	_, err := io.ReadFull(c, answer)
	return answer, err
}

// pageantClient has a program there, which looks for Pageant's window as PuTTY's
// do, see the keys of OpenSSH's agent here.
func pageantClient(s *stage) {
	agent, add, keygen := openSSH(s, "ssh-agent"), openSSH(s, "ssh-add"), openSSH(s, "ssh-keygen")
	s.pageantIsOurs()
	d := s.daemon()
	run := s.start(s.command(0, d.dir, []string{agent, "-D", "-a", d.at("agent")}))
	defer run.abandon()
	if !soon(limit, func() bool { _, err := os.Stat(d.at("agent")); return err == nil }) {
		s.t.Fatal("ssh-agent doesn't listen")
	}
	s.output(s.command(0, d.dir, []string{keygen, "-q", "-t", "ed25519", "-N", "", "-C", "from here", "-f", d.at("key")}))
	cmd := s.command(0, d.dir, []string{add, "-q", d.at("key")})
	cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+d.at("agent"))
	s.output(cmd)

	s.want("before", s.output(s.win(pageantExe, "ask", "0b")), "no Pageant\n")
	name := d.forward("pageant:", d.at("agent"))
	want, err := ask(d.dial("agent"), []byte{11})
	if err != nil || !strings.Contains(string(want), "from here") {
		s.t.Fatalf("here it answers %q, %v", want, err)
	}
	for range 3 {
		s.want("by the window", s.output(s.win(pageantExe, "ask", "0b")), hex.EncodeToString(want)+"\n")
	}
	d.activeOf(name, 0)
	if f := d.forwarded(name); f.Total != 3 || f.In != 15 || f.Out != 3*uint64(4+len(want)) {
		s.t.Errorf("forward %+v", f)
	}
	d.do("forward", "rm", name)
	if !soon(limit, func() bool { return s.output(s.win(pageantExe, "ask", "0b")) == "no Pageant\n" }) {
		s.t.Error("the window is still there")
	}
}
