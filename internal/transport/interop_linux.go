package transport

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// interopFolder is where WSL has a socket for each terminal's session, by which
// Windows programs are started.
const interopFolder = "/run/WSL"

// notInherited are variables that are this process's own: a service manager's
// word to it.
var notInherited = []string{"NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC"}

// environment is env as the agent gets it. WSL_INTEROP is found anew each time:
// the session that this process began in may be over, and its socket with it
// (microsoft/WSL#7560).
func (c *Command) environment(env []string) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(notInherited, name)
	})
	folder := c.Interop
	if folder == "" {
		folder = interopFolder
	}
	if st, err := os.Stat(folder); err != nil || !st.IsDir() || !c.mayBeWindows() {
		return env
	}
	const name = "WSL_INTEROP="
	old := ""
	env = slices.DeleteFunc(env, func(v string) bool {
		value, ok := strings.CutPrefix(v, name)
		if ok {
			old = value
		}
		return ok
	})
	// Without a living one, WSL's loader shall look for itself: it uses the
	// variable's even if nobody is there.
	if s := interop(old, folder); s != "" {
		env = append(env, name+s)
	}
	return env
}

// mayBeWindows tells whether the command starts a Windows program, as far as can
// be seen: it is one, or a shell that may start one.
func (c *Command) mayBeWindows() bool {
	if c.Argv[0] == shell {
		return true
	}
	f, err := os.Open(c.Argv[0])
	if err != nil {
		return false
	}
	defer f.Close()
	var magic [2]byte
	_, err = f.Read(magic[:])
	return err == nil && string(magic[:]) == "MZ"
}

// interop finds a socket by which Windows programs can be started: the one that
// the variable names, init's, or the newest that lives; "" for none. WSL lets
// everybody make names in the folder, so only sockets of its owner count, of root, as
// whom init makes them, and of this user: who answers at another's would be the agent.
func interop(old, folder string) string {
	owners := []uint32{0, uint32(os.Geteuid())}
	var st unix.Stat_t
	if unix.Stat(folder, &st) == nil {
		owners = append(owners, st.Uid) // root, by another number in some namespaces of users
	}
	trusted := func(path string) bool {
		// Of the socket itself, whatever links lead to it.
		var st unix.Stat_t
		return unix.Stat(path, &st) == nil && slices.Contains(owners, st.Uid)
	}
	init := filepath.Join(folder, "1_interop")
	for _, s := range []string{old, init} {
		if s != "" && trusted(s) && lives(s) {
			return s
		}
	}
	all, _ := filepath.Glob(filepath.Join(folder, "*_interop"))
	times := map[string]time.Time{}
	for _, s := range all {
		if st, err := os.Stat(s); err == nil {
			times[s] = st.ModTime()
		}
	}
	slices.SortFunc(all, func(a, b string) int { return times[b].Compare(times[a]) })
	for _, s := range all {
		if trusted(s) && lives(s) {
			return s
		}
	}
	return ""
}

// lives tells whether a process still has the socket bound. The kernel looks for
// it before it looks at the type, so asking with the wrong one costs the other
// side nothing (unix_find_bsd): EPROTOTYPE if it is there, ECONNREFUSED if not.
func lives(path string) bool {
	for _, typ := range []int{unix.SOCK_DGRAM, unix.SOCK_STREAM} {
		fd, err := unix.Socket(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return false
		}
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		_ = unix.Close(fd)
		if err == syscall.EPROTOTYPE {
			return true
		}
		if err != nil {
			return false
		}
	}
	return false
}
