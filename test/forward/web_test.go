//go:build linux

package forward

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drvsock/test/rig"
)

// bulk is what the server has, and what it gets.
var bulk = pattern(5_000_000)

// pattern is n bytes in which a lost, repeated or swapped block shows.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8 + i>>16)
	}
	return b
}

// serveHTTP serves at an address: GET is bulk, POST is answered with the sum of
// what came.
func (b *box) serveHTTP(network, address string) net.Addr {
	b.Helper()
	l, err := net.Listen(network, address)
	b.check(err)
	if filepath.IsAbs(address) {
		b.check(os.Chmod(address, 0o666))
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			sum := sha256.New()
			_, _ = io.Copy(sum, r.Body)
			fmt.Fprintf(w, "%x", sum.Sum(nil))
			return
		}
		_, _ = w.Write(bulk)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	b.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return l.Addr()
}

// TestCurl moves bytes by curl, with which socket ever.
func TestCurl(t *testing.T) {
	t.Parallel()
	curl := rig.Program(t, "curl", "curl")
	var uids []uint32
	if os.Geteuid() == 0 {
		uids = append(uids, rig.User)
	}
	for _, uid := range append(uids, 0) {
		t.Run(fmt.Sprintf("uid %d", uid), func(t *testing.T) {
			t.Parallel()
			b := upBox(t, uid)
			abstract := func(name string) string { return filepath.Base(filepath.Dir(b.dir)) + name }
			b.serveHTTP("unix", b.host("web.sock"))
			b.serveHTTP("unix", b.path("web.sock"))
			b.serveHTTP("unix", "@"+abstract("web"))
			tcp := b.serveHTTP("tcp", "127.0.0.1:0").String()
			upload := b.file(b.path("bulk"), string(bulk))
			transfer := func(what string, flags ...string) {
				t.Helper()
				url := "http://x/"
				if flags[0] == "tcp" {
					url, flags = "http://"+flags[1]+"/", nil
				}
				argv := append([]string{curl, "-sS", "--fail", "--max-time", "25", url}, flags...)
				if got := []byte(b.output(argv...)); !bytes.Equal(got, bulk) {
					t.Errorf("%s: down: %d bytes that are not the server's %d", what, len(got), len(bulk))
				}
				argv = append(argv, "-H", "Expect:", "--data-binary", "@"+upload)
				if got, want := b.output(argv...), fmt.Sprintf("%x", sha256.Sum256(bulk)); got != want {
					t.Errorf("%s: up: got the sum %s, want %s", what, got, want)
				}
			}
			transfer("natively", "--unix-socket", b.host("web.sock"))
			for _, tt := range []struct {
				name, listen, connect string
				flags                 []string // of curl; nil asks for the forward's address
			}{
				{"gh", b.path("gh"), b.win("web.sock"), []string{"--unix-socket", b.path("gh")}},
				{"hg", b.win("hg"), b.path("web.sock"), []string{"--unix-socket", b.host("hg")}},
				{"ah", "@" + abstract("ah"), b.win("web.sock"), []string{"--abstract-unix-socket", abstract("ah")}},
				{"ha", b.win("ha"), "@" + abstract("web"), []string{"--unix-socket", b.host("ha")}},
			} {
				b.drvsock("forward", "--name", tt.name, tt.listen, tt.connect)
				transfer(tt.listen+" to "+tt.connect, tt.flags...)
			}
			// So far there is no port that anybody could connect to.
			if ports := b.ports(); len(ports) > 0 {
				t.Errorf("drvsock listens on TCP without being asked to: %v", ports)
			}
			for _, tt := range []struct{ name, listen, connect string }{
				{"th", "guest:tcp:127.0.0.1:0", b.win("web.sock")},
				{"tg", "tcp:" + loopback6(t), b.path("web.sock")},
				{"tt", "tcp:127.0.0.1:0", "guest:tcp:" + tcp},
			} {
				b.drvsock("forward", "--name", tt.name, tt.listen, tt.connect)
				address := strings.TrimPrefix(b.address(tt.name), "tcp:")
				if host, port, err := net.SplitHostPort(address); err != nil || port == "0" || !net.ParseIP(host).IsLoopback() {
					t.Errorf("%s listens on %s", tt.listen, address)
				}
				transfer(tt.listen+" to "+tt.connect, "tcp", address)
			}
			b.drvsock("forward", "--name", "ut", b.path("ut"), "tcp:"+tcp)
			transfer("to TCP", "--unix-socket", b.path("ut"))
			if ports := b.ports(); len(ports) != 3 {
				t.Errorf("drvsock listens on the ports %v, want 3", ports)
			}
			for _, f := range b.status().Forwards {
				size := uint64(len(bulk))
				if f.Total != 2 || f.Failed+f.Refused > 0 || f.In < size || f.Out < size || f.In > size+1000 || f.Out > size+1000 {
					t.Errorf("status of %s: %+v", f.Name, f)
				}
			}
		})
	}
}

// loopback6 is a port of the loopback of IPv6, or of IPv4 where there is no other.
func loopback6(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Log(err)
		return "127.0.0.1:0"
	}
	_ = l.Close()
	return "[::1]:0"
}

// ports lists the TCP sockets of daemon and agent that listen (proc_net(5)).
func (b *box) ports() (list []string) {
	b.Helper()
	st := b.status()
	own := map[string]bool{}
	for _, pid := range []int{st.Daemon.PID, st.Links[0].PID} {
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		b.check(err)
		if len(fds) == 0 {
			b.Fatalf("process %d has no descriptors", pid)
		}
		for _, fd := range fds {
			to, _ := os.Readlink(fd)
			own[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")] = true
		}
	}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if os.IsNotExist(err) {
			continue
		}
		b.check(err)
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 9 && f[3] == "0A" && own[f[9]] {
				list = append(list, f[1])
			}
		}
	}
	return list
}
