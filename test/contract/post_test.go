//go:build linux

package contract

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"drvsock/test/rig"
)

func chownAs(t *testing.T, path string, st os.FileInfo) {
	t.Helper()
	sys := st.Sys().(*syscall.Stat_t)
	if err := os.Chown(path, int(sys.Uid), int(sys.Gid)); err != nil {
		t.Fatal(err)
	}
}

// pair runs the server until it listens, then the client, and returns what both
// print.
func pair(t *testing.T, server, client *exec.Cmd) [2]string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	server.Stdout = w
	err = server.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	text := make(chan string)
	listens := make(chan struct{})
	go func() {
		var b strings.Builder
		br := bufio.NewReader(r)
		for {
			line, err := br.ReadString('\n')
			b.WriteString(line)
			if strings.HasPrefix(line, "server listening") {
				close(listens)
			}
			if err != nil {
				text <- b.String()
				return
			}
		}
	}()
	select {
	case <-listens:
	case out := <-text:
		_ = server.Wait()
		return [2]string{out, ""}
	}
	out, _ := rig.Output(t, client, limit)
	if !strings.Contains(out, "received") {
		// The server has nobody to wait for.
		_ = server.Cancel()
	}
	served := <-text
	if err := server.Wait(); err != nil && strings.Contains(out, "received") {
		t.Errorf("server: %v", err)
	}
	return [2]string{served, out}
}

// TestPost plays the programs of the post, unchanged: what they print is what
// they print on one machine, addresses and sizes included.
func TestPost(t *testing.T) {
	client, server, bind := rig.Seed(t, "client"), rig.Seed(t, "server"), rig.Seed(t, "bind")
	for _, w := range append(slices.Clip(ways), mounts...) {
		t.Run(w.name, func(t *testing.T) {
			o := w.options()
			r := rig.New(t, o)
			o.Plain = true
			native := rig.New(t, o)
			want := pair(t, native.OnHost(server), native.OnHost(client))
			if !strings.Contains(want[1], "received: 14 bytes, this is a test") {
				t.Fatalf("natively: %q", want)
			}
			t.Run("bare", func(t *testing.T) {
				out := said(t, r.InView(client))
				if !strings.Contains(out, "Operation not supported") {
					t.Errorf("client in the view without drvsock prints %q", out)
				}
			})
			start := w.open(r)
			t.Run("client", func(t *testing.T) {
				if d := cmp.Diff(want, pair(t, r.OnHost(server), start(client))); d != "" {
					t.Error(d)
				}
			})
			t.Run("server", func(t *testing.T) {
				if d := cmp.Diff(want, pair(t, start(server), r.OnHost(client))); d != "" {
					t.Error(d)
				}
			})
			t.Run("both", func(t *testing.T) {
				if d := cmp.Diff(want, pair(t, start(server), start(client))); d != "" {
					t.Error(d)
				}
			})
			t.Run("bind", func(t *testing.T) {
				if d := cmp.Diff(said(t, native.OnHost(bind)), said(t, start(bind))); d != "" {
					t.Error(d)
				}
			})
			for _, dir := range []string{r.Host, native.Host} {
				if left, _ := filepath.Glob(dir + "/*"); len(left) > 0 {
					t.Errorf("files left: %q", left)
				}
			}
		})
	}
}

// said gives stdout and stderr of a command in one.
func said(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var b strings.Builder
	cmd.Stderr = io.Writer(&b)
	out, _ := rig.Output(t, cmd, limit)
	return out + b.String()
}
