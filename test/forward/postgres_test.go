//go:build linux

package forward

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// TestPostgres has a server on each side, that is one with a socket on each, and
// clients on the other.
func TestPostgres(t *testing.T) {
	t.Parallel()
	initdb, postgres := rig.Program(t, "postgresql", "initdb"), rig.Program(t, "postgresql", "postgres")
	psql := rig.Program(t, "postgresql-client", "psql")
	var uid uint32
	if os.Geteuid() == 0 { // which the server may not be
		uid = rig.Known(t)
	}
	b := upBox(t, uid)
	user := b.output("id", "-un")
	data := b.path("data")
	b.output(initdb, "-D", data, "-U", user, "-A", "peer", "-N", "-E", "UTF8", "--locale", "C")
	for _, path := range []string{b.host("srv"), b.path("srv"), b.host("cli"), b.path("cli")} {
		b.folder(path, 0o700)
	}
	b.file(data+"/postgresql.auto.conf", fmt.Sprintf(`fsync = off
listen_addresses = ''
unix_socket_directories = '%s, %s'
max_connections = 20
shared_buffers = 16MB
`, b.host("srv"), b.path("srv")))
	cmd := b.command(postgres, "-D", data)
	cmd.Stderr = nil // it has a word for each client that goes without one
	server := rig.Start(b.T, cmd, limit)
	const name = ".s.PGSQL.5432"
	client := func(dir, sql string) []string {
		return []string{psql, "-X", "-h", dir, "-U", user, "-At", "-v", "ON_ERROR_STOP=1", "-c", sql, "postgres"}
	}
	b.eventually("the server serves", func() error {
		cmd := b.command(client(b.host("srv"), "select 1")...)
		cmd.Stderr = nil
		if _, code := rig.Output(b.T, cmd, limit); code != 0 {
			return fmt.Errorf("psql: exit code %d", code)
		}
		return nil
	})
	b.drvsock("forward", "--name", "here", b.path("cli/"+name), b.win("srv/"+name))
	b.drvsock("forward", "--name", "there", b.win("cli/"+name), b.path("srv/"+name))
	var rows strings.Builder
	for i := 0; rows.Len() < 2_000_000; i++ {
		fmt.Fprintf(&rows, "%d\n", i*7919)
	}
	for side, dir := range map[string]string{"here": b.path("cli"), "there": b.host("cli")} {
		// The server takes who comes for this account: so the kernel names it.
		if got := b.output(client(dir, "select session_user, inet_client_addr() is null, 6*7")...); got != user+"|t|42" {
			t.Errorf("%s: got %q", side, got)
		}
		cmd := b.command(append(client(dir, "create temp table n(i bigint)"), "-c", "copy n from stdin", "-c", "copy n to stdout")...)
		cmd.Stdin = strings.NewReader(rows.String())
		_, got, _ := strings.Cut(b.result(cmd), "COPY ")
		_, got, _ = strings.Cut(got, "\n")
		if got+"\n" != rows.String() {
			t.Errorf("%s: %d bytes that are not the %d sent", side, len(got)+1, rows.Len())
		}
		// Sessions at once, each served by a process of its own.
		var wg sync.WaitGroup
		outs := make([]string, 8)
		for i := range outs {
			cmd := b.command(client(dir, fmt.Sprintf("select pg_sleep(0.1); select %d", i))...)
			wg.Go(func() {
				out, _ := rig.Output(b.T, cmd, limit)
				outs[i] = strings.TrimSpace(out)
			})
		}
		wg.Wait()
		for i, out := range outs {
			if out != fmt.Sprint(i) {
				t.Errorf("%s: session %d: got %q", side, i, out)
			}
		}
		if f := b.forward(side); f.Total != 10 || f.Failed+f.Refused > 0 || f.In < uint64(rows.Len()) || f.Out < uint64(rows.Len()) {
			t.Errorf("status of %s: %+v", side, f)
		}
	}
	// A server that goes is an error for clients, which say so.
	if code := server.End(unix.SIGINT); code != 0 {
		t.Errorf("postgres ended with exit code %d", code)
	}
	for side, dir := range map[string]string{"here": b.path("cli"), "there": b.host("cli")} {
		if out := b.fails(2, client(dir, "select 1")...); !strings.Contains(out, "server closed the connection") && !strings.Contains(out, "Connection reset") && !strings.Contains(out, "refused") {
			t.Errorf("%s: psql says %q", side, out)
		}
		if f := b.forward(side); f.Failed == 0 || f.LastError == nil || f.LastError.Errno != "ENOENT" {
			t.Errorf("status of %s: %+v, %+v", side, f, f.LastError)
		}
	}
}
