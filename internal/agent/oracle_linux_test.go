package agent

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// Each call gives a guest the errno that the system gives a program on the spot.
func TestSameErrno(t *testing.T) {
	paths := []string{
		"live", "shut", "stale", "silent", "dgram", "file", "dir", "link", "dangling",
		"loop", "loop/x", "toolong", "toolong/x", "missing", "missing/x", "file/x", "file/x/y",
		"private/live", "private/missing", "dir/x", "open/x", "live/x", "link/x", "sticky/live", "we:ird",
	}
	type row struct{ call, path string }
	rows := []row{{"connect-nonblock", "full"}, {"connect-timeout", "full"}, {"connect-nonblock", "live"}}
	for _, p := range paths {
		rows = append(rows, row{"connect", p}, row{"bind", p}, row{"stat", p})
	}
	// unlink differs by design for what is no socket; "live" and the like
	// would be gone for the rows after them.
	for _, p := range []string{"dir", "loop/x", "missing", "missing/x", "file/x", "toolong/x", "dir/x"} {
		rows = append(rows, row{"unlink", p})
	}
	for _, another := range []bool{false, true} {
		t.Run(fmt.Sprintf("another account %v", another), func(t *testing.T) {
			extra, uid := []row(nil), uint32(os.Getuid())
			if another {
				needRoot(t)
				uid = nobody
				extra = []row{{"unlink", "sticky/live"}, {"unlink", "shut"}, {"unlink", "private/live"}}
			}
			dir := folder(t)
			scene(t, dir)
			b, _ := startAgent(t, uid, dir)
			seen := map[string]bool{}
			rows := append(extra, rows...)
			calls := make([]string, 0, 2*len(rows))
			for _, r := range rows {
				calls = append(calls, r.call, dir+"/"+r.path)
			}
			wants := nativeAs(t, uid, calls)
			for i, r := range rows {
				want := wants[i]
				got := b.call(r.call, hostPath(strings.ReplaceAll(r.path, ":", "\uf03a")))
				if got != want {
					t.Errorf("%s %s: %d %v, natively %d %v", r.call, r.path, int(got), got, int(want), want)
				}
				seen[fmt.Sprintf("%s %d", strings.TrimSuffix(strings.TrimSuffix(r.call, "-nonblock"), "-timeout"), int(want))] = true
			}
			// The table must not shrink to one that proves little.
			must := []string{
				"connect 0", "connect 2", "connect 11", "connect 20", "connect 36", "connect 40", "connect 91", "connect 111",
				"bind 0", "bind 2", "bind 20", "bind 36", "bind 40", "bind 98", "stat 0", "stat 2", "stat 20", "unlink 2",
			}
			if another {
				must = append(must, "connect 13", "bind 13", "stat 13", "unlink 13", "unlink 1")
			} else {
				must = append(must, "unlink 21")
			}
			for _, m := range must {
				if !seen[m] {
					t.Errorf("the system never gave %q", m)
				}
			}
		})
	}
}

func TestUnlinkRefusesOthers(t *testing.T) {
	dir := folder(t)
	scene(t, dir)
	b := newBench(t, Config{Drives: map[byte]string{'C': dir}})
	for _, name := range []string{"file", "link", "dangling"} {
		if got := b.unlinkErrno(name); got != "ENOTSOCK" {
			t.Errorf("unlink %s: %s", name, got)
		}
		if _, err := os.Lstat(dir + "/" + name); err != nil {
			t.Error(err)
		}
	}
	if got := b.unlinkErrno("stale"); got != "" {
		t.Errorf("unlink of a socket: %s", got)
	}
	if _, err := os.Lstat(dir + "/stale"); !os.IsNotExist(err) {
		t.Errorf("socket is still there: %v", err)
	}
}
