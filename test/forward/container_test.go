//go:build linux

package forward

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"drvsock/test/rig"
)

// The words of a container: its own mount namespace and root, with this system's
// programs, and what it is given at /given and /run/given.
const container = `
set -e
root=$1 given=$2 folder=$3
shift 3
mount -t tmpfs -o mode=755 none "$root"
for d in usr etc dev proc; do mkdir "$root/$d"; mount --rbind "/$d" "$root/$d"; done
for d in bin sbin lib lib32 lib64 libx32; do
	if [ -L "/$d" ]; then cp -P "/$d" "$root/$d"; elif [ -d "/$d" ]; then mkdir "$root/$d"; mount --rbind "/$d" "$root/$d"; fi
done
mkdir "$root/old" "$root/run" "$root/run/given"
touch "$root/given"
mount --bind "$given" "$root/given"
mount --bind "$folder" "$root/run/given"
cd "$root"
pivot_root . old
cd /
umount -l /old
exec "$@"
`

// TestContainer gives listeners into a container as `docker run -v` does, one by
// itself and one with its folder.
func TestContainer(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a root of its own")
	}
	unshare, curl := rig.Program(t, "util-linux", "unshare"), rig.Program(t, "curl", "curl")
	b := upBox(t, 0)
	b.serveHTTP("unix", b.host("web.sock"))
	b.folder(b.path("given"), 0o755)
	root := b.path("root")
	b.folder(root, 0o755)
	enter := func(argv ...string) []string {
		return append([]string{unshare, "--mount", "--propagation", "private", "--net", "/bin/sh", "-c", container, "sh",
			root, b.path("one.sock"), b.path("given")}, argv...)
	}
	get := func(path string) []string {
		return enter(curl, "-sS", "--fail", "--max-time", "20", "--unix-socket", path, "http://x/")
	}
	b.drvsock("forward", b.path("one.sock"), b.win("web.sock"))
	b.drvsock("forward", "--name", "two", b.path("given/two.sock"), b.win("web.sock"))
	// It is a container: neither the paths of the guest nor of the host are in it.
	for _, path := range []string{b.path("one.sock"), b.host("web.sock")} {
		if out := b.fails(7, get(path)...); out == "" {
			t.Error("curl says nothing")
		}
	}
	for _, path := range []string{"/given", "/run/given/two.sock"} {
		if got := b.output(get(path)...); !bytes.Equal([]byte(got), bulk) {
			t.Errorf("%s: %d bytes that are not the server's %d", path, len(got), len(bulk))
		}
	}
	for _, name := range []string{"one", "two"} {
		f := b.forward(name)
		if f.Total != 1 || f.Out < uint64(len(bulk)) {
			t.Errorf("status of %s: %+v", name, f)
		}
	}
	// A container that runs on finds the next listener by the folder alone.
	again := b.command(enter("/bin/sh", "-c", `echo ready; read line; for s in /given /run/given/two.sock; do `+
		curl+` -s --fail --max-time 20 -o /dev/null --unix-socket $s http://x/; echo $?; done`)...)
	in, out := rig.Talk(b.T, again, limit)
	say := make([]byte, len("ready\n"))
	_, err := out.Read(say)
	b.check(err)
	for _, name := range []string{"one", "two"} {
		b.drvsock("forward", "rm", name)
	}
	b.drvsock("forward", b.path("one.sock"), b.win("web.sock"))
	b.drvsock("forward", "--name", "two", b.path("given/two.sock"), b.win("web.sock"))
	_, err = in.Write([]byte("go\n"))
	b.check(err)
	var said bytes.Buffer
	_, err = said.ReadFrom(out)
	if want := "7\n0\n"; err != nil || said.String() != want {
		t.Errorf("a container that runs on says %q, %v, want %q", said.String(), err, want)
	}
	if left, _ := filepath.Glob(root + "/*"); len(left) > 0 {
		t.Errorf("the mounts of the container are out here: %v", left)
	}
}
