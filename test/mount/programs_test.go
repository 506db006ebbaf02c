//go:build linux

package mount

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// programFor bounds what other people's programs take on a busy machine.
const programFor = 60 * time.Second

// need skips the test if a program is not there.
func need(t *testing.T, name string, elsewhere ...string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, pattern := range elsewhere {
		if list, _ := filepath.Glob(pattern); len(list) > 0 {
			return list[len(list)-1]
		}
	}
	t.Skipf("no %s", name)
	return ""
}

// shell runs a script with an argument, as the user uid, and returns what it
// printed.
func shell(t *testing.T, uid uint32, script string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-euc", script, "sh"}, args...)...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "HOME="+rig.Dir(t), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	cmd.SysProcAttr = credential(uid)
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	var said bytes.Buffer
	cmd.Stderr = &said
	out, code := rig.Output(t, cmd, programFor)
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, out, said.String())
	}
	return out
}

// credential is for a process group of another account.
func credential(uid uint32) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if uid != 0 {
		attr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	return attr
}

// TestGit works on a repository in the view and checks it beneath.
func TestGit(t *testing.T) {
	need(t, "git")
	for name, uid := range map[string]uint32{"root": 0, "own": rig.Nobody} {
		t.Run(name, func(t *testing.T) { git(t, uid) })
	}
}

func git(t *testing.T, uid uint32) {
	f := newFolders(t, uid)
	out := shell(t, uid, `
cd "$1"; git init -q origin; cd origin
for d in a b c; do mkdir $d; for i in $(seq 60); do echo "$d $i" >$d/file$i; done; done
ln -s a/file1 link; chmod 755 a/file2; git add -A; git commit -qm first
cd ..; git clone -q origin copy; cd copy; git status --porcelain
echo more >>b/file3; rm c/file4; git mv a/file5 a/moved; git status --porcelain | sort
git stash -q; git stash pop -q; git commit -qam second; git gc -q; git fsck --strict --no-dangling 2>&1; git log --oneline | wc -l
cd "$2/copy"; git status --porcelain; git fsck --strict --no-dangling 2>&1
`, f.view, f.beneath)
	want := " D c/file4\n M b/file3\nR  a/file5 -> a/moved\n2\n"
	if out != want {
		t.Errorf("git says:\n%s\nwant:\n%s", out, want)
	}
}

// TestTar takes a tree with all that tar knows through the view and back.
func TestTar(t *testing.T) {
	need(t, "tar")
	f := newFolders(t, 0)
	out := shell(t, 0, `
cd "$1"; mkdir src; cd src
mkdir -p deep/er; echo text >deep/file; ln deep/file hard; ln -s deep/file soft; mkfifo pipe
truncate -s 8M sparse; echo end >>sparse; chmod 4711 hard; chown 7:8 soft -h; touch -d 2001-02-03 deep/er
cd ..; tar -C src --sparse -cf bare.tar .
mkdir "$2/tree"; tar -C "$2/tree" -xpf bare.tar
tar -C "$2/tree" --sparse -cf view.tar .; mkdir back; tar -C back -xpf view.tar
for d in src "$2/tree" "$3/tree" back; do (cd $d; find . -printf '%p %y %m %U %G %n %s %Ts %l\n' | sed 's/\. d .*/. d/' | sort; cat deep/file; cksum sparse) >"$1/list"; md5sum <"$1/list"; done
test $(du -k "$2/tree/sparse" | cut -f1) -lt 100
`, f.bare, f.view, f.beneath)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for _, l := range lines {
		if len(lines) != 4 || l != lines[0] {
			t.Fatalf("the trees differ: %q", lines)
		}
	}
}

// TestGo builds and runs a program in the view.
func TestGo(t *testing.T) {
	need(t, "go")
	f := newFolders(t, 0)
	out := shell(t, 0, `
cd "$1"; printf 'module example\ngo 1.24\n' >go.mod
printf 'package main\n\nimport "os"\n\nfunc main() { os.Stdout.WriteString("built\\n") }\n' >main.go
CGO_ENABLED=0 GOPATH=$1/gopath GOCACHE=$2 go build -p 1 -o prog . && ./prog
`, f.view, cache(t))
	if out != "built\n" {
		t.Errorf("the program says %q", out)
	}
}

// cache is the build cache of whoever runs the tests.
func cache(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		t.Skip(err)
	}
	return strings.TrimSpace(string(out))
}

// start runs a program until the test ends.
func start(t *testing.T, uid uint32, dir string, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Dir = dir
	said := &rig.Log{}
	cmd.Stdout, cmd.Stderr = said, said
	cmd.Env = append(os.Environ(), "HOME="+dir, "SHELL=/bin/sh") // the accounts' own shell is nologin
	cmd.SysProcAttr = credential(uid)
	cmd.WaitDelay = limit
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGTERM) }
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Cancel()
		late := time.AfterFunc(limit, func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
		_ = cmd.Wait()
		late.Stop()
		if t.Failed() {
			t.Logf("%q said:\n%s", argv, said.String())
		}
	})
	return cmd
}

// dial connects as a program of the host, for some time.
func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	for end := time.Now().Add(programFor); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("unix", path)
		if err == nil {
			_ = c.SetDeadline(time.Now().Add(programFor))
			t.Cleanup(func() { c.Close() })
			return c
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// talk says something to a server and reads until it has answered with want.
func talk(t *testing.T, c net.Conn, say, want string) {
	t.Helper()
	if _, err := c.Write([]byte(say)); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for !bytes.Contains(got, []byte(want)) {
		b := make([]byte, 4096)
		n, err := c.Read(b)
		got = append(got, b[:n]...)
		if err != nil {
			t.Fatalf("the server says %q, %v, want %q", got, err, want)
		}
	}
}

// TestServices runs servers without a wrapper, under their own account, with
// their sockets in the view, and reaches them from the host's side.
func TestServices(t *testing.T) {
	f := newFolders(t, 0)
	home := func(t *testing.T) (view, beneath, dir string) {
		t.Helper()
		name := strings.ToLower(filepath.Base(t.Name()))
		view, beneath, dir = filepath.Join(f.view, name), filepath.Join(f.beneath, name), filepath.Join(f.bare, name)
		for _, d := range []string{beneath, dir} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(d, rig.Nobody, rig.Nobody); err != nil {
				t.Skip(err)
			}
		}
		return view, beneath, dir
	}
	t.Run("Redis", func(t *testing.T) {
		bin := need(t, "redis-server")
		view, beneath, dir := home(t)
		start(t, rig.Nobody, dir, bin, "--port", "0", "--unixsocket", view+"/r.sock", "--unixsocketperm", "755", "--save", "", "--dir", dir)
		talk(t, dial(t, beneath+"/r.sock"), "SET a 12\r\nGET a\r\n", "+OK\r\n$2\r\n12\r\n")
	})
	t.Run("Nginx", func(t *testing.T) {
		bin := need(t, "nginx", "/usr/sbin/nginx")
		view, beneath, dir := home(t)
		conf := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr;
events {} http { access_log off; client_body_temp_path %[1]s/1; proxy_temp_path %[1]s/2; fastcgi_temp_path %[1]s/3; uwsgi_temp_path %[1]s/4; scgi_temp_path %[1]s/5;
server { listen unix:%[2]s/w.sock; location / { return 200 hello; } } }`, dir, view)
		if err := os.WriteFile(dir+"/conf", []byte(conf), 0o644); err != nil {
			t.Fatal(err)
		}
		start(t, rig.Nobody, dir, bin, "-e", "stderr", "-c", dir+"/conf")
		talk(t, dial(t, beneath+"/w.sock"), "GET / HTTP/1.0\r\n\r\n", "hello")
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		initdb, server := need(t, "initdb", "/usr/lib/postgresql/*/bin/initdb"), need(t, "postgres", "/usr/lib/postgresql/*/bin/postgres")
		psql := need(t, "psql")
		view, beneath, dir := home(t)
		shell(t, rig.Nobody, `"$1" -D "$2/data" -N --locale=C -A trust -U somebody >/dev/null`, initdb, dir)
		start(t, rig.Nobody, dir, server, "-D", dir+"/data", "-k", view, "-c", "listen_addresses=", "-c", "fsync=off")
		dial(t, beneath+"/.s.PGSQL.5432").Close()
		// A server that has just begun to listen may still say so.
		out := shell(t, rig.Nobody, `for i in $(seq 60); do "$1" -h "$2" -U somebody -At -c 'select 6*7' postgres && exit; sleep 0.5; done; exit 1`, psql, beneath)
		if out != "42\n" {
			t.Errorf("psql on the host says %q", out)
		}
		if out := shell(t, rig.Nobody, `"$1" -h "$2" -U somebody -At -c 'select 6*7' postgres`, psql, view); out != "42\n" {
			t.Errorf("psql in the guest says %q", out)
		}
	})
	t.Run("DBus", func(t *testing.T) {
		bin := need(t, "dbus-daemon")
		view, beneath, dir := home(t)
		start(t, rig.Nobody, dir, bin, "--session", "--nofork", "--nopidfile", "--address=unix:path="+view+"/bus")
		// The bus asks the kernel who connects, and lets its own account in.
		talk(t, dial(t, beneath+"/bus"), fmt.Sprintf("\x00AUTH EXTERNAL %x\r\n", fmt.Sprint(rig.Nobody)), "OK ")
	})
	t.Run("Tmux", func(t *testing.T) {
		bin := need(t, "tmux")
		view, beneath, dir := home(t)
		start(t, rig.Nobody, dir, bin, "-D", "-f", "/dev/null", "-S", view+"/tmux")
		// A client hands its terminal over (SCM_RIGHTS), which can't cross the border:
		// one of the host gets to the server and no further.
		dial(t, beneath+"/tmux").Close()
		list := shell(t, rig.Nobody, `"$1" -S "$2" new-session -d -s one cat; "$1" -S "$2" list-sessions -F '#{session_name}'`, bin, view+"/tmux")
		if list != "one\n" {
			t.Errorf("tmux in the guest says %q", list)
		}
	})
}
