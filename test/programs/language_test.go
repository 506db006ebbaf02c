//go:build linux

package programs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// echo plays an echo server and its client, started by prefix: several
// connections at once, each with its bulk, half-closed by the client.
func echo(t *testing.T, prefix ...string) {
	t.Helper()
	everywhere(t, func(p *play) {
		p.failsToServe(append(prefix, "server", p.client.path("none"))...)
		server := p.server.start(append(prefix, "server", p.server.path("s"))...)
		p.listens(server, "s")
		for _, c := range []struct{ conns, bytes int }{{1, 1}, {20, 100_000}, {1, 2_000_000}} {
			argv := append(prefix, "client", p.client.path("s"), fmt.Sprint(c.conns), fmt.Sprint(c.bytes))
			if c.bytes == 1 {
				p.failsWithout(argv...)
			}
			got := p.client.output(argv...)
			if want := fmt.Sprint(c.conns, c.bytes, " ", p.client.path("s")); got != want {
				p.Errorf("got %q, want %q", got, want)
			}
		}
		server.End(unix.SIGKILL)
	})
}

func TestPython(t *testing.T) {
	t.Parallel()
	echo(t, program(t, "python3", "python3"), source(t, "echo.py"))
}

func TestNode(t *testing.T) {
	t.Parallel()
	echo(t, program(t, "nodejs", "node"), source(t, "echo.js"))
}

func TestGo(t *testing.T) {
	t.Parallel()
	echo(t, rig.Go(t, "./testdata/goecho"))
}

// TestJava is Java 16 and later, which have Unix sockets.
func TestJava(t *testing.T) {
	t.Parallel()
	java := program(t, "default-jre-headless", "java")
	src := source(t, "Echo.java")
	dir := filepath.Dir(src)
	// The compiler is a module of the runtime, with or without javac.
	cmd := exec.Command(java, "-m", "jdk.compiler/com.sun.tools.javac.Main", "-d", dir, src)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	echo(t, java, "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", dir, "Echo")
}

// TestEpoll is C programs of 64 and 32 bits that register their sockets in
// epoll before they bind or connect them.
func TestEpoll(t *testing.T) {
	t.Parallel()
	for _, bits := range []string{"-m64", "-m32"} {
		t.Run(bits, func(t *testing.T) {
			rig.NeedC(t, bits)
			bin := filepath.Join(rig.Dir(t), "epoll")
			cmd := exec.Command(program(t, "gcc gcc-multilib", "gcc"), bits, "-Wall", "-Werror", "-O1", "-o", bin, source(t, "epoll.c"))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if err := os.Chmod(bin, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, trigger := range []string{"lt", "et"} {
				t.Run(trigger, func(t *testing.T) {
					echo(t, bin, trigger)
				})
			}
		})
	}
}
