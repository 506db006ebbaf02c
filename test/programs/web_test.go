//go:build linux

package programs

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// block is what testdata/web.py answers GET /n with.
func block(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

// transfers lets curl fetch and send through the socket.
func transfers(p *play, curl, sock string) {
	p.Helper()
	base := []string{curl, "-sS", "--fail", "--max-time", "20", "--unix-socket", p.client.path(sock)}
	p.failsWithout(append(base, "http://x/5")...)
	fetch := func(argv ...string) []byte {
		p.Helper()
		return raw(p.T, p.client.command(append(base, argv...)...))
	}
	for _, n := range []int{5, 10_000_000} {
		same(p.T, fetch(fmt.Sprintf("http://x/%d", n)), block(n))
	}
	// Several requests on one connection, then several connections.
	var want []byte
	for n := 100; n < 120; n++ {
		want = append(want, block(n)...)
	}
	same(p.T, fetch("http://x/[100-119]"), want)
	out := fetch("--no-progress-meter", "--parallel", "--parallel-immediate", "http://x/[1000-1019]")
	if want := 20*1000 + 190; len(out) != want {
		p.Errorf("20 answers at once: got %d bytes, want %d", len(out), want)
	}
	body := pattern(5_000_000)
	cmd := p.client.command(append(base, "-H", "Expect:", "--data-binary", "@-", "http://x/")...)
	cmd.Stdin = bytes.NewReader(body)
	same(p.T, raw(p.T, cmd), body)
}

func TestCurl(t *testing.T) {
	t.Parallel()
	curl, python := program(t, "curl", "curl"), program(t, "python3", "python3")
	server := source(t, "web.py")
	everywhere(t, func(p *play) {
		p.failsToServe(python, server, p.client.path("none"))
		http := p.server.start(python, server, p.server.path("http"))
		p.listens(http, "http")
		transfers(p, curl, "http")
		http.End(unix.SIGKILL)
	})
}

// TestNginx is a master with two workers, which are other accounts when root
// starts it, and a reload that hands the listening socket on.
func TestNginx(t *testing.T) {
	t.Parallel()
	curl, nginx := program(t, "curl", "curl"), program(t, "nginx", "nginx")
	python, upstream := program(t, "python3", "python3"), source(t, "web.py")
	everywhere(t, func(p *play) {
		p.listens(p.server.start(python, upstream, p.server.path("up")), "up")
		server := p.server.start(nginx, "-c", nginxConf(p, "unix:"+p.server.path("nginx"), p.server.path("up")))
		p.listens(server, "nginx")
		transfers(p, curl, "nginx")
		// A reload: the master keeps its socket, new workers take over.
		_ = server.Cmd.Process.Signal(unix.SIGHUP)
		time.Sleep(300 * time.Millisecond)
		out := p.client.output(curl, "-sS", "--fail", "--max-time", "20", "--unix-socket", p.client.path("nginx"), "http://x/5")
		same(p.T, []byte(out), block(5))
		if code := server.End(unix.SIGTERM); code != 0 {
			p.Errorf("nginx ended with exit code %d", code)
		}
		if _, err := os.Lstat(p.hostPath("nginx")); !os.IsNotExist(err) {
			p.Errorf("nginx removes its socket at the end, here it is still: %v", err)
		}
	})
}

// TestNginxProxy has the web server as the client: its workers connect without
// blocking and wait with epoll.
func TestNginxProxy(t *testing.T) {
	t.Parallel()
	curl, nginx := program(t, "curl", "curl"), program(t, "nginx", "nginx")
	python, upstream := program(t, "python3", "python3"), source(t, "web.py")
	everywhere(t, func(p *play) {
		p.listens(p.server.start(python, upstream, p.server.path("up")), "up")
		local := filepath.Join(filepath.Dir(p.folder()), "local")
		if err := os.Chmod(filepath.Dir(local), 0o777); err != nil {
			p.Fatal(err)
		}
		conf := nginxConf(p, "unix:"+local, p.client.path("up"))
		proxy := p.client.start(nginx, "-c", conf)
		p.until(proxy, func() error {
			c, err := net.Dial("unix", local)
			if err == nil {
				_ = c.Close()
			}
			return err
		})
		native := *p
		native.client.guest, native.server.guest = false, false
		for _, n := range []int{5, 10_000_000} {
			out := native.client.output(curl, "-sS", "--fail", "--max-time", "20",
				"--unix-socket", local, fmt.Sprintf("http://x/%d", n))
			same(p.T, []byte(out), block(n))
		}
		if code := proxy.End(unix.SIGTERM); code != 0 {
			p.Errorf("nginx ended with exit code %d", code)
		}
	})
}

// nginxConf writes a configuration that passes what comes at listen on to
// the Unix socket upstream.
func nginxConf(p *play, listen, upstream string) string {
	p.Helper()
	tmp := p.folder()
	var temp strings.Builder
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temp, "%s_temp_path %s/%s;\n", kind, tmp, kind)
	}
	account := ""
	if p.uid == 0 && os.Geteuid() == 0 {
		account = "user www-data;"
		if err := os.Chmod(tmp, 0o777); err != nil {
			p.Fatal(err)
		}
	}
	return file(p.T, filepath.Dir(tmp), "nginx.conf", fmt.Sprintf(`
daemon off;
worker_processes 2;
pid %s/pid;
error_log stderr error;
%s
events { worker_connections 128; }
http {
	access_log off;
	client_max_body_size 100m;
	%s
	server {
		listen %s;
		location / { proxy_pass http://unix:%s:; proxy_http_version 1.1; }
	}
}
`, tmp, account, temp.String(), listen, upstream))
}
