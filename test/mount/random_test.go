//go:build linux

package mount

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// TestRandom makes random changes to a file in the view and to one beside it, and
// compares what can be seen, beneath too: where the kernel passes a file's bytes
// through, and where the mount does.
func TestRandom(t *testing.T) {
	for name, uid := range map[string]uint32{"by the kernel": 0, "by the mount": rig.Nobody} {
		t.Run(name, func(t *testing.T) {
			f := newFolders(t, uid)
			cmd := exec.CommandContext(t.Context(), readable(t), f.bare+"/f", f.view+"/f", f.beneath+"/f")
			cmd.Dir = "/"
			cmd.Env = append(os.Environ(), callsVar+"=random")
			if uid != 0 {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
			}
			out, _ := rig.Output(t, cmd, programFor)
			if !strings.HasSuffix(out, "the same\n") {
				t.Error(out)
			}
		})
	}
}

// random is TestRandom's part that uses the files.
func random(bareName, viewName, beneath string) error {
	seed := uint64(time.Now().UnixNano())
	fmt.Println("seed", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	const size = 1 << 18
	var files [2]*os.File
	for i, name := range []string{bareName, viewName} {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			return err
		}
		files[i] = f
	}
	buf := make([]byte, 1<<16)
	for i := range 2000 {
		off, n, op := rnd.Int64N(size), 1+rnd.IntN(len(buf)-1), rnd.IntN(11)
		for j := range buf[:n] {
			buf[j] = byte(rnd.Uint32())
		}
		if op == 10 { // by another descriptor
			files[1].Close()
			f, err := os.OpenFile(viewName, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			files[1] = f
			continue
		}
		var seen [2]string
		for k, file := range files {
			seen[k] = change(file, op, off, bytes.Clone(buf[:n]))
		}
		if seen[0] != seen[1] {
			return fmt.Errorf("step %d, op %d at %d of %d bytes: %s in the folder, %s in the view", i, op, off, n, seen[0], seen[1])
		}
	}
	want, err := os.ReadFile(bareName)
	if err != nil {
		return err
	}
	for _, name := range []string{viewName, beneath} {
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("%s: content differs, %v", name, err)
		}
	}
	fmt.Println("the same")
	return nil
}

// change does one thing to a file and says what it sees then.
func change(f *os.File, op int, off int64, b []byte) string {
	fd := int(f.Fd())
	var err error
	var n int
	switch op {
	case 0, 1, 2:
		n, err = unix.Pwrite(fd, b, off)
	case 3, 4, 5:
		n, err = unix.Pread(fd, b, off)
		b = b[:max(n, 0)]
	case 6:
		err = unix.Ftruncate(fd, off)
	case 7:
		err = unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, off, int64(len(b)))
	case 8:
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err == nil && st.Size > 0 {
			var m []byte
			if m, err = unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
				at := off % st.Size
				copy(m[at:], b)
				err = unix.Munmap(m)
			}
		}
	case 9:
		from, to := off, off/2
		n, err = unix.CopyFileRange(fd, &from, fd, &to, min(len(b), int(off-off/2)), 0)
	}
	var st unix.Stat_t
	err2 := unix.Fstat(fd, &st)
	return fmt.Sprint(n, err, err2, st.Size, fmt.Sprintf("%x", sha256.Sum256(b))[:8])
}
