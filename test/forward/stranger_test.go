//go:build linux

package forward

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// stranger is an account that has nothing to do with a box.
const stranger = 65534

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be another user")
	}
}

// TestBorn watches the folder of a listener that is made again and again, as
// another user who tries to get in: mode and owner are there before the door is.
func TestBorn(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	b := upBox(t, 0)
	b.serveHTTP("unix", b.host("web.sock"))
	for _, tt := range []struct {
		flags []string
		mode  string
		in    bool
	}{
		{[]string{"--mode", "0666"}, "0666 0:0", true}, // the watch works
		{nil, "0600 0:0", false},
		{[]string{"--mode", "0660", "--owner", fmt.Sprint(rig.User), "--group", fmt.Sprint(rig.Other)}, fmt.Sprintf("0660 %d:%d", rig.User, rig.Other), false},
	} {
		dir := b.path("born" + strings.ReplaceAll(tt.mode, ":", "-"))
		b.folder(dir, 0o755)
		cmd, stop := b.player(stranger, nil, "lurk", dir)
		in, out := rig.Talk(t, cmd, limit)
		stop()
		r := bufio.NewReader(out)
		if line, err := r.ReadString('\n'); line != "ready\n" {
			t.Fatalf("the stranger says %q, %v", line, err)
		}
		args := append([]string{"forward", "--name", "born"}, tt.flags...)
		for range 30 {
			b.drvsock(append(args, filepath.Join(dir, "x.sock"), b.win("web.sock"))...)
			b.drvsock("forward", "rm", "born")
		}
		b.check(in.Close())
		want := fmt.Sprintf("met some: true\nseen: x.sock %s\ngot in: %v\n", tt.mode, tt.in)
		var said strings.Builder
		if _, err := r.WriteTo(&said); err != nil || said.String() != want {
			t.Errorf("%q: the stranger says\n%s%v, want\n%s", tt.flags, said.String(), err, want)
		}
	}
}

// TestControlSocket: another user gets no word of the daemon, wherever the door
// stands open by mistake.
func TestControlSocket(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	b := upBox(t, 0)
	run := b.path("run/drvsock")
	sock := filepath.Join(run, "control.sock")
	if got, want := b.as(stranger, nil, "ask", "unix", sock), "connect: EACCES"; got != want {
		t.Errorf("the folder as it is: %s, want %s", got, want)
	}
	b.check(os.Chmod(b.path("run"), 0o755))
	b.check(os.Chmod(run, 0o755))
	if got, want := b.as(stranger, nil, "ask", "unix", sock), "connect: EACCES"; got != want {
		t.Errorf("the folder open, the socket as it is: %s, want %s", got, want)
	}
	b.check(os.Chmod(sock, 0o666))
	refused := b.log()
	if got := b.as(stranger, nil, "ask", "unix", sock); got != `"", ECONNRESET` && got != `""` {
		t.Errorf("the socket open: %s, want an end without a word", got)
	}
	b.logged("warning: control connection refused", fmt.Sprintf("uid=%d", stranger))
	if strings.Contains(refused, "control connection refused") {
		t.Error("who was refused by the kernel is in the log of the daemon")
	}
	// The command looks for its user's own, and finds no other's. Nor does its
	// user take a folder that others could have put something in.
	cmd := b.rig.As(stranger, "/", b.rig.Bin, "status")
	cmd.Env = append(cmd.Env, b.env...)
	var said strings.Builder
	cmd.Stderr = &said
	if out, code := rig.Output(t, cmd, limit); code != 1 || out != "" || !strings.Contains(said.String(), "drvsock: error: no daemon runs\n") {
		t.Errorf("status of a stranger: exit code %d, %q, %q", code, out, said.String())
	}
	if out := b.fails(1, b.rig.Bin, "status"); !strings.Contains(out, "has mode 0755, so others could get in") || !strings.Contains(out, "hint: chmod 700 "+run) {
		t.Errorf("status in a folder that is open: %q", out)
	}
	b.check(os.Chmod(run, 0o700))
	// Root may deal with everybody's daemon, and the user with their own alone.
	if st := b.status(); st == nil || len(st.Sessions) > 0 {
		t.Errorf("status: %+v", st)
	}
}

// TestRefused: another user reaches no forward that its mode or its rule forbids,
// and each refusal says why.
func TestRefused(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	b := upBox(t, 0)
	shout(b, b.host("srv"))
	shout(b, b.path("srv"))
	abstract := "@" + filepath.Base(filepath.Dir(b.dir))
	const in = `"HELLO\n"`
	add := func(name string, args ...string) {
		b.drvsock(append([]string{"forward", "--name", name}, args...)...)
	}
	// Modes, which the kernel checks for a file and drvsock for what has none.
	add("private", b.path("private"), b.win("srv"))
	add("group", "--mode", "0660", "--group", fmt.Sprint(rig.Other), b.path("group"), b.win("srv"))
	add("all", "--mode", "0666", b.path("all"), b.win("srv"))
	add("abstract", abstract, b.win("srv"))
	add("abstract-group", "--mode", "0660", "--group", fmt.Sprint(stranger), abstract+"g", b.win("srv"))
	add("there", b.win("there"), b.path("srv"))
	add("stand-in", "assuan:"+b.path("S.x"), b.win("srv"))
	// Rules.
	add("ruled", "--mode", "0666", "--allow-user", "root", "--allow-user", fmt.Sprint(rig.User), b.path("ruled"), b.win("srv"))
	add("nobody", "--mode", "0666", "--allow-user", fmt.Sprint(stranger), b.path("nobody"), b.win("srv"))
	add("tcp", "--allow-user", "root", "guest:tcp:127.0.0.1:0", b.win("srv"))
	add("account", "--allow-user", fmt.Sprint(stranger), b.win("account"), b.path("srv"))
	tcp := strings.TrimPrefix(b.address("tcp"), "tcp:")

	for _, tt := range []struct {
		name    string // of the forward
		uid     uint32
		groups  []uint32
		network string
		address string
		want    string
		why     string // in status, "" for none
	}{
		{"private", 0, nil, "unix", b.path("private"), in, ""},
		{"private", stranger, nil, "unix", b.path("private"), "connect: EACCES", ""},
		{"group", stranger, nil, "unix", b.path("group"), "connect: EACCES", ""},
		{"group", stranger, []uint32{rig.Other}, "unix", b.path("group"), in, ""},
		{"all", stranger, nil, "unix", b.path("all"), in, ""},
		{"abstract", 0, nil, "unix", abstract, in, ""},
		{"abstract", stranger, nil, "unix", abstract, `"", ECONNRESET`, "guest: EACCES: uid 65534 may not connect: the mode is 0600"},
		{"abstract-group", stranger, nil, "unix", abstract + "g", in, ""},
		{"abstract-group", rig.User, []uint32{rig.Other, stranger}, "unix", abstract + "g", in, ""},
		{"abstract-group", rig.User, nil, "unix", abstract + "g", `"", ECONNRESET`, "guest: EACCES: uid 44001 may not connect: the mode is 0660"},
		{"there", 0, nil, "unix", b.host("there"), in, ""},
		{"there", stranger, nil, "unix", b.host("there"), "connect: EACCES", ""},
		{"ruled", 0, nil, "unix", b.path("ruled"), in, ""},
		{"ruled", rig.User, nil, "unix", b.path("ruled"), in, ""},
		{"ruled", stranger, nil, "unix", b.path("ruled"), `"", ECONNRESET`, "guest: EACCES: uid 65534 is not in the allow rule"},
		{"ruled", stranger, []uint32{0, rig.User}, "unix", b.path("ruled"), `"", ECONNRESET`, "guest: EACCES: uid 65534 is not in the allow rule"},
		{"nobody", stranger, nil, "unix", b.path("nobody"), in, ""},
		{"nobody", 0, nil, "unix", b.path("nobody"), `"", ECONNRESET`, "guest: EACCES: uid 0 is not in the allow rule"},
		{"tcp", 0, nil, "tcp", tcp, in, ""},
		{"tcp", stranger, nil, "tcp", tcp, `"", ECONNRESET`, "guest: EACCES: uid 65534 is not in the allow rule"},
		{"account", 0, nil, "unix", b.host("account"), `"", ECONNRESET`, "guest: EACCES: account root is not in the allow rule"},
	} {
		what := fmt.Sprintf("%s, uid %d, groups %v", tt.name, tt.uid, tt.groups)
		before := b.forward(tt.name)
		if got := b.as(tt.uid, tt.groups, "ask", tt.network, tt.address); got != tt.want &&
			// A connection that is closed before the client has written ends; over TCP
			// it may be reset before connect has returned.
			!(strings.Contains(tt.want, "ECONNRESET") && (got == `""` && tt.network == "unix" || got == "connect: ECONNRESET" || got == "write: ECONNRESET")) {
			t.Errorf("%s: got %s, want %s", what, got, tt.want)
		}
		after := b.forward(tt.name)
		switch {
		case tt.why != "":
			if after.Refused != before.Refused+1 || after.Total != before.Total || after.LastError == nil || after.LastError.Text != tt.why || after.LastError.Layer != "guest" || after.LastError.Errno != "EACCES" {
				t.Errorf("%s: status %+v, %+v, want %q", what, after, after.LastError, tt.why)
			}
			b.logged("warning: refused", "forward="+tt.name, strings.TrimPrefix(tt.why, "guest: "))
		case tt.want == in:
			if after.Refused != before.Refused || after.Total != before.Total+1 {
				t.Errorf("%s: status %+v", what, after)
			}
		case after.Refused+after.Total+after.Failed != before.Refused+before.Total+before.Failed:
			t.Errorf("%s: the kernel refuses, and yet it is in the status: %+v", what, after)
		}
	}
	// A stand-in is a port that everybody reaches, and a file that not everybody
	// reads: without the nonce nothing gets through.
	text, err := os.ReadFile(b.path("S.x"))
	b.check(err)
	port, _, _ := strings.Cut(string(text), "\n")
	if got := b.as(stranger, nil, "ask", "tcp", "127.0.0.1:"+port); got != `""` && !strings.HasSuffix(got, "ECONNRESET") {
		t.Errorf("without the nonce: %s, want an end", got)
	}
	if f := b.forward("stand-in"); f.Total > 0 {
		t.Errorf("without the nonce: %+v", f)
	}
	var st unix.Stat_t
	if b.check(unix.Stat(b.path("S.x"), &st)); st.Mode&0o777 != 0o600 {
		t.Errorf("mode of the stand-in: %o", st.Mode)
	}
	// The tables say it too.
	out := b.drvsock("status")
	for _, want := range []string{"\n  2 refused, 0 not connected\n", "ago: guest: EACCES: uid 65534 is not in the allow rule\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("status lacks %q:\n%s", want, out)
		}
	}
}
