//go:build linux

package programs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"drvsock/internal/standin"
	"drvsock/test/rig"
)

func TestRedis(t *testing.T) {
	t.Parallel()
	server, cli := program(t, "redis-server", "redis-server"), program(t, "redis-tools", "redis-cli")
	benchmark := program(t, "redis-tools", "redis-benchmark")
	everywhere(t, func(p *play) {
		argv := func(sock string) []string {
			return []string{server, "--port", "0", "--unixsocket", sock, "--unixsocketperm", "700",
				"--save", "", "--dir", p.folder(), "--logfile", os.DevNull}
		}
		p.failsToServe(argv(p.client.path("none"))...)
		redis := p.server.start(argv(p.server.path("redis"))...)
		p.listens(redis, "redis")
		at := []string{cli, "-s", p.client.path("redis"), "-e"}
		p.failsWithout(append(at, "PING")...)
		if got := p.client.output(append(at, "PING")...); got != "PONG" {
			p.Errorf("PING: got %q", got)
		}
		if st, err := os.Stat(p.hostPath("redis")); err != nil || st.Mode().Perm() != 0o700 {
			p.Errorf("the socket of --unixsocketperm 700 is %v, %v", st.Mode(), err)
		}
		// redis-cli prints text as it is and adds a line's end.
		value := bytes.ReplaceAll(pattern(3_000_000), []byte{'\n'}, []byte{'x'})
		cmd := p.client.command(append(at, "-x", "SET", "k")...)
		cmd.Stdin = bytes.NewReader(value)
		if got := output(p.T, cmd); got != "OK" {
			p.Fatalf("SET: got %q", got)
		}
		same(p.T, []byte(p.client.output(append(at, "GET", "k")...)), value)
		out := p.client.output(benchmark, "-s", p.client.path("redis"), "-n", "2000", "-c", "30", "-P", "4", "-t", "ping,set,get", "--csv")
		if n := strings.Count(out, "\n"); n < 4 || strings.Contains(out, "rror") {
			p.Errorf("redis-benchmark says:\n%s", out)
		}
		if code := redis.End(unix.SIGTERM); code != 0 {
			p.Errorf("redis ended with exit code %d", code)
		}
	})
}

// TestPostgres runs the database, which root may not, under an ordinary
// account; when root is the caller, run is root's and the server gives its
// privileges up in it.
func TestPostgres(t *testing.T) {
	t.Parallel()
	initdb, postgres := program(t, "postgresql", "initdb"), program(t, "postgresql", "postgres")
	psql, setpriv := program(t, "postgresql-client", "psql"), program(t, "util-linux", "setpriv")
	var uid uint32
	if os.Geteuid() == 0 {
		uid = rig.Known(t)
	}
	id := fmt.Sprint(uid)
	drop := []string{setpriv, "--reuid", id, "--regid", id, "--clear-groups"}
	db := &play{T: t, uid: uid}
	data := filepath.Join(db.folder(), "data")
	if err := os.Chmod(filepath.Dir(data), 0o711); err != nil {
		t.Fatal(err)
	}
	r := rig.New(t, rig.Options{Plain: true})
	output(t, r.As(uid, "/", initdb, "-D", data, "-U", "post", "-A", "trust", "-N", "-E", "UTF8", "--locale", "C"))
	file(t, data, "postgresql.auto.conf", "fsync = off\nlisten_addresses = ''\nunix_socket_permissions = 0777\nmax_connections = 20\nshared_buffers = 16MB\n")
	play := func(p *play) {
		argv := []string{postgres, "-D", data, "-k", p.server.path("")}
		if p.uid == 0 && uid != 0 {
			argv = append(drop, argv...)
			if err := os.Chmod(p.hostPath(""), 0o777); err != nil {
				p.Fatal(err)
			}
		}
		cmd := p.server.command(argv...)
		cmd.Stderr = nil // it has a word for each client that goes without one
		server := start(p.T, cmd)
		p.listens(server, ".s.PGSQL.5432")
		client := func(sql string) []string {
			return []string{psql, "-X", "-h", p.client.path(""), "-U", "post", "-At", "-v", "ON_ERROR_STOP=1", "-c", sql, "postgres"}
		}
		p.failsWithout(client("select 1")...)
		p.until(server, func() error { // it may say that it is starting up
			_, code := rig.Output(p.T, p.client.command(client("select 1")...), limit)
			if code != 0 {
				return fmt.Errorf("psql: exit code %d", code)
			}
			return nil
		})
		if got := p.client.output(client("select inet_client_addr() is null, 6*7")...); got != "t|42" {
			p.Errorf("got %q", got)
		}
		// Bulk, up and down.
		rows := make([]byte, 0, 3_000_000)
		for i := 0; len(rows) < 2_900_000; i++ {
			rows = fmt.Appendf(rows, "%d\n", i*7919)
		}
		cmd = p.client.command(append(client("create temp table n(i bigint)"), "-c", "copy n from stdin", "-c", "copy n to stdout")...)
		cmd.Stdin = bytes.NewReader(rows)
		got, _ := strings.CutPrefix(output(p.T, cmd), "CREATE TABLE\n")
		_, got, _ = strings.Cut(got, "\n") // COPY and the number of rows
		same(p.T, []byte(got+"\n"), rows)
		// Sessions at once, each served by a process of its own.
		var wg sync.WaitGroup
		outs := make([]string, 8)
		for i := range outs {
			cmd := p.client.command(client(fmt.Sprintf("select pg_sleep(0.1); select %d", i))...)
			wg.Go(func() {
				out, _ := rig.Output(p.T, cmd, limit)
				outs[i] = strings.TrimSpace(out)
			})
		}
		wg.Wait()
		for i, out := range outs {
			if out != fmt.Sprint(i) {
				p.Errorf("session %d: got %q", i, out)
			}
		}
		// Fast shutdown; it removes socket and lock file.
		if code := server.End(unix.SIGINT); code != 0 {
			p.Errorf("postgres ended with exit code %d", code)
		}
		for _, name := range []string{".s.PGSQL.5432", ".s.PGSQL.5432.lock"} {
			if _, err := os.Lstat(p.hostPath(name)); !os.IsNotExist(err) {
				p.Errorf("%s is left behind: %v", name, err)
			}
		}
	}
	t.Run("caller", func(t *testing.T) {
		// It sets the mode of its socket, so the drive must be mounted as its own.
		view := standin.Options{}
		if uid != 0 {
			view.Fixed = &standin.Fixed{UID: uid, GID: uid}
		}
		as(t, 0, view, play)
	})
	if uid != 0 {
		t.Run("user", func(t *testing.T) { as(t, uid, standin.Options{}, play) })
	}
}
