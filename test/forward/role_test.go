//go:build linux

package forward

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// The test binary also plays programs of other accounts.
const roleVar = "DRVSOCK_FORWARD_ROLE"

func role(args []string) int {
	switch args[0] {
	case "ask":
		fmt.Print(ask(args[1], args[2]))
	case "lurk":
		fmt.Print(lurk(args[1]))
	}
	return 0
}

// as has the account uid, with a group of the same number and others, play a
// role, and gives what it prints.
func (b *box) as(uid uint32, groups []uint32, args ...string) string {
	b.Helper()
	cmd, stop := b.player(uid, groups, args...)
	defer stop()
	out, _ := rig.Output(b.T, cmd, limit)
	return out
}

// ask connects, writes a line and tells what comes back, and how it ends.
func ask(network, address string) string {
	c, err := net.DialTimeout(network, address, limit)
	if err != nil {
		return "connect: " + name(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(limit))
	// Not one that may meet a closed socket: what is unread is a reset (unix(7)).
	_, err = io.WriteString(c, "hello\n")
	if err == nil {
		err = c.(interface{ CloseWrite() error }).CloseWrite()
	}
	if err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ENOTCONN) {
		return "write: " + name(err)
	}
	got, rerr := io.ReadAll(c)
	if rerr != nil || !errors.Is(err, syscall.ECONNRESET) { // a reset is told once, by whichever call meets it
		err = rerr
	}
	if err != nil {
		return fmt.Sprintf("%q, %s", got, name(err))
	}
	return fmt.Sprintf("%q", got)
}

// name is the name of an error's number.
func name(err error) string {
	var e syscall.Errno
	if errors.As(err, &e) {
		return unix.ErrnoName(e)
	}
	return err.Error()
}

// lurk looks into a folder again and again, until stdin ends, and tries to
// connect to all that is there. It tells how often it looked, the modes and
// owners of the sockets that it met, and how often it got in.
func lurk(dir string) string {
	var stop atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop.Store(true)
	}()
	seen := map[string]bool{}
	met, in := 0, 0
	fmt.Println("ready")
	for !stop.Load() {
		names, err := os.ReadDir(dir)
		if err != nil {
			return err.Error()
		}
		for _, e := range names {
			path := filepath.Join(dir, e.Name())
			var st unix.Stat_t
			if unix.Lstat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
				continue
			}
			met++
			seen[fmt.Sprintf("%s %04o %d:%d", e.Name(), st.Mode&0o7777, st.Uid, st.Gid)] = true
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err.Error()
			}
			// EAGAIN: there is a listener that would have let us in.
			if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err == nil || err == unix.EAGAIN {
				in++
			}
			_ = unix.Close(fd)
		}
	}
	var all []string
	for s := range seen {
		all = append(all, s)
	}
	slices.Sort(all)
	return fmt.Sprintf("met some: %v\nseen: %s\ngot in: %v\n", met > 0, strings.Join(all, ", "), in > 0)
}

// player is the program of a role. stop closes what it needs.
func (b *box) player(uid uint32, groups []uint32, args ...string) (cmd *exec.Cmd, stop func()) {
	b.Helper()
	// By descriptor: the folder of the binary is closed to other accounts.
	exe, err := os.Open("/proc/self/exe")
	b.check(err)
	cmd = b.rig.As(uid, "/", append([]string{"/proc/self/fd/3"}, args...)...)
	if len(groups) > 0 {
		cmd.SysProcAttr.Credential.Groups = groups
	}
	cmd.Env = append(cmd.Env, roleVar+"=1", "GORACE=atexit_sleep_ms=0")
	cmd.ExtraFiles = []*os.File{exe}
	return cmd, func() { _ = exe.Close() }
}

// shout serves at path: it answers all that it reads to the end, in capitals.
func shout(b *box, path string) {
	b.Helper()
	serve(b, path, func(c *net.UnixConn) {
		text, err := io.ReadAll(c)
		if err == nil {
			_, _ = c.Write(bytes.ToUpper(text))
		}
	})
}

// serve listens, for everybody, until the test ends, and runs each connection by do.
func serve(b *box, path string, do func(*net.UnixConn)) {
	b.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	b.check(err)
	b.check(os.Chmod(path, 0o666))
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				do(c)
			})
		}
	})
	b.Cleanup(func() {
		_ = l.Close()
		work.Wait()
	})
}
