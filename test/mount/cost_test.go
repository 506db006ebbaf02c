//go:build linux

package mount

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// BenchmarkCost does the same in a folder and in a view, in turns, and reports
// the medians. -benchtime=20x is twenty turns.
func BenchmarkCost(b *testing.B) {
	for _, acc := range []struct {
		name string
		uid  uint32
	}{{"root", 0}, {"own", rig.Nobody}} {
		b.Run(acc.name, func(b *testing.B) {
			f := newFolders(b, acc.uid)
			b.Run("git-status", func(b *testing.B) { costOfGit(b, acc.uid, f) })
			if acc.uid == 0 {
				b.Run("stat-100-first", func(b *testing.B) { costOfStat(b, f) })
				b.Run("stat-100-again", func(b *testing.B) {
					turns(b, f.bare, f.view, func(dir string) error { return stats(dir+"/000", 100) })
				})
			}
			costOfData(b, acc.uid, f)
			if acc.uid == 0 {
				costOfSockets(b, f)
			}
		})
	}
}

// turns times fn in both folders, one after the other, b.N times.
func turns(b *testing.B, bare, view string, fn func(dir string) error) {
	b.Helper()
	turnsAfter(b, 0, bare, view, fn)
}

// turnsAfter is turns with a rest before each turn.
func turnsAfter(b *testing.B, rest time.Duration, bare, view string, fn func(dir string) error) {
	b.Helper()
	var took [2][]float64
	for b.Loop() {
		time.Sleep(rest)
		for i, dir := range []string{bare, view} {
			from := time.Now()
			if err := fn(dir); err != nil {
				b.Fatal(err)
			}
			took[i] = append(took[i], float64(time.Since(from).Nanoseconds())/1e3)
		}
	}
	for i := range took {
		slices.Sort(took[i])
	}
	m := len(took[0]) / 2
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(took[0][m], "folder-us")
	b.ReportMetric(took[1][m], "view-us")
	b.ReportMetric(took[1][m]/took[0][m], "ratio")
}

// The tree has folders of a hundred files each.
const treeFolders, treeFiles = 200, 100

// expire is how long the kernel's caches of a view are good for, and some more.
const expire = 1100 * time.Millisecond

func costOfGit(b *testing.B, uid uint32, f folders) {
	git, err := exec.LookPath("git")
	if err != nil {
		b.Skip(err)
	}
	run := func(dir string, args ...string) error {
		cmd := exec.Command(git, append([]string{"-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "gc.auto=0", "-C", dir}, args...)...)
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "HOME=/")
		cmd.SysProcAttr = credential(uid)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("git %q: %w: %s", args, err, out)
		}
		return nil
	}
	for _, dir := range []string{f.bare, f.beneath} {
		for i := range treeFolders {
			d := fmt.Sprintf("%s/%03d", dir, i)
			if err := os.Mkdir(d, 0o755); err != nil {
				b.Fatal(err)
			}
			for j := range treeFiles {
				if err := os.WriteFile(fmt.Sprintf("%s/%d", d, j), []byte("text"), 0o644); err != nil {
					b.Fatal(err)
				}
			}
		}
		if out, err := exec.Command("chown", "-R", fmt.Sprintf("%d:%[1]d", uid), dir).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		for _, args := range [][]string{{"init", "-q"}, {"add", "-A"}, {"commit", "-qm", "all"}} {
			if err := run(dir, args...); err != nil {
				b.Fatal(err)
			}
		}
	}
	for _, dir := range []string{f.bare, f.view} { // which writes down the view's device
		if err := run(dir, "status", "--porcelain"); err != nil {
			b.Fatal(err)
		}
	}
	status := func(dir string) error { return run(dir, "status", "--porcelain") }
	b.Run("after-a-while", func(b *testing.B) { turnsAfter(b, expire, f.bare, f.view, status) })
	b.Run("at-once-again", func(b *testing.B) { turns(b, f.bare, f.view, status) })
}

// stats asks for count files of a folder of the tree.
func stats(dir string, count int) error {
	for i := range count {
		var st unix.Stat_t
		if err := unix.Lstat(fmt.Sprintf("%s/%d", dir, i), &st); err != nil {
			return err
		}
	}
	return nil
}

func costOfStat(b *testing.B, f folders) {
	n := 0
	turnsAfter(b, expire, f.bare, f.view, func(dir string) error {
		n++
		return stats(fmt.Sprintf("%s/%03d", dir, n/2%treeFolders), 100)
	})
}

func costOfData(b *testing.B, uid uint32, f folders) {
	const size, piece = 256 << 20, 1 << 20
	buf := make([]byte, piece)
	each := func(name string, flags int, fn func(*os.File) error) {
		b.Run(name, func(b *testing.B) {
			turns(b, f.bare, f.view, func(dir string) error {
				done := make(chan error, 1)
				go func() {
					err := become(uid)
					if err != nil {
						done <- err
						return
					}
					file, err := os.OpenFile(filepath.Join(dir, "data"), flags, 0o644)
					if err != nil {
						done <- err
						return
					}
					defer file.Close()
					for range size / piece {
						if err := fn(file); err != nil {
							done <- err
							return
						}
					}
					done <- nil
				}()
				return <-done
			})
		})
	}
	each("write-256MB", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, func(file *os.File) error { _, err := file.Write(buf); return err })
	// Of a file that was just written the kernel's pages are not trusted.
	time.Sleep(3 * time.Second)
	each("read-256MB", os.O_RDONLY, func(file *os.File) error { _, err := file.Read(buf); return err })
}

func costOfSockets(b *testing.B, f folders) {
	echo(b, f.bare+"/s")
	echo(b, f.beneath+"/h")
	echo(b, f.view+"/n")
	first := func(path string) error {
		c, err := net.Dial("unix", path)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 1))
		return err
	}
	b.Run("connect-host", func(b *testing.B) { turns(b, f.bare+"/s", f.view+"/h", first) })
	b.Run("connect-guest", func(b *testing.B) { turns(b, f.bare+"/s", f.view+"/n", first) })
}
