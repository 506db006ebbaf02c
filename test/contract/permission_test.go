//go:build linux

package contract

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// group is one that no account has unless it is given to it.
const group = 44003

// sample is one folder or socket, and what comes of a call on it before and
// after the missing permission is granted.
type sample struct {
	name     string
	uid, gid int // owner on the host
	mode     os.FileMode
	want     string
	granted  os.FileMode
}

// TestPermissions are the samples of the post: the agent has one account, the
// program another, and either side can say no (C5, C6).
func TestPermissions(t *testing.T) {
	bind := []sample{
		{"no host permission, then granted", rig.User, rig.User, 0o755, "EACCES", 0o777},
		{"no guest permission, then granted", rig.Other, rig.Other, 0o755, "EACCES", 0o777},
		{"neither, then granted", 0, 0, 0o755, "EACCES", 0o777},
		{"no host search, then granted", rig.User, rig.User, 0o700, "EACCES", 0o777},
		{"no guest search, then granted", rig.Other, rig.Other, 0o700, "EACCES", 0o777},
		{"by supplementary group", rig.Other, group, 0o775, "ok", 0o775},
		{"not by supplementary group", rig.Other, group, 0o755, "EACCES", 0o775},
	}
	connect := []sample{
		{"no host permission, then granted", rig.User, rig.User, 0o755, "EACCES", 0o777},
		{"no guest permission, then granted", rig.Other, rig.Other, 0o755, "EACCES", 0o777},
		{"neither, then granted", 0, 0, 0o700, "EACCES", 0o777},
		{"by supplementary group", rig.Other, group, 0o770, "ok", 0o770},
		{"not by supplementary group", rig.Other, group, 0o750, "EACCES", 0o770},
	}
	everyWay(t, few, func(t *testing.T, w way) { permissions(t, w, bind, connect) })
}

func permissions(t *testing.T, w way, bind, connect []sample) {
	o := rig.Options{Agent: rig.Other, Program: rig.User, Groups: []uint32{group}}
	w.flags(&o)
	r := rig.New(t, o)
	guest := rig.StartProbe(t, w.open(r)(rig.ProbeProgram(t)))
	for i, s := range bind {
		t.Run("bind/"+s.name, func(t *testing.T) {
			guest := guest.In(t)
			dir := filepath.Join(r.Host, "d"+string(rune('a'+i)))
			try(t, dir, os.Mkdir(dir, 0o700), s)
			name := filepath.Base(dir) + "/bind.sock"
			guest.Want("ok", "socket 5 stream")
			guest.Want(s.want, "bind 5 %s", name)
			if s.want != "ok" {
				try(t, dir, nil, sample{uid: s.uid, gid: s.gid, mode: s.granted})
				guest.Want("ok", "bind 5 %s", name)
			}
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(dir, "bind.sock"), &st); err != nil || st.Uid != rig.Other {
				t.Errorf("the socket on the host belongs to %d, %v, want the agent", st.Uid, err)
			}
		})
	}
	for i, s := range connect {
		t.Run("connect/"+s.name, func(t *testing.T) {
			guest := guest.In(t)
			host := rig.StartProbe(t, r.As(0, r.Host, rig.ProbeProgram(t)))
			name := "s" + string(rune('a'+i))
			host.Want("ok", "socket 5 stream")
			host.Want("ok", "bind 5 %s", name)
			host.Want("ok", "listen 5 5")
			file := filepath.Join(r.Host, name)
			try(t, file, nil, s)
			guest.Want("ok", "socket 5 stream")
			guest.Want(s.want, "connect 5 %s", name)
			if s.want != "ok" {
				try(t, file, nil, sample{uid: s.uid, gid: s.gid, mode: s.granted})
				guest.Want("ok", "connect 5 %s", name)
			}
			guest.Want("ok 1", "send 5 x")
			host.Want("ok len=2", "accept 5 6")
			host.Want("ok 1 x", "recv 6 5")
		})
	}
}

// try sets owner and mode of a file of the host.
func try(t *testing.T, file string, err error, s sample) {
	t.Helper()
	if err == nil {
		err = os.Chown(file, s.uid, s.gid)
	}
	if err == nil {
		err = os.Chmod(file, s.mode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestRootOfGuest has root in the guest pass every check of the guest, and none
// of the host's for an agent of an ordinary account.
func TestRootOfGuest(t *testing.T) { everyWay(t, few, rootOfGuest) }

func rootOfGuest(t *testing.T, w way) {
	o := rig.Options{Agent: rig.Other}
	w.flags(&o)
	r := rig.New(t, o)
	guest := rig.StartProbe(t, w.open(r)(rig.ProbeProgram(t)))
	for _, s := range []sample{
		{"a", rig.User, rig.User, 0o755, "EACCES", 0},
		{"b", rig.User, rig.User, 0o700, "EACCES", 0},
		{"c", rig.Other, rig.Other, 0o700, "ok", 0},
		{"d", 0, 0, 0o777, "ok", 0},
	} {
		dir := filepath.Join(r.Host, s.name)
		try(t, dir, os.Mkdir(dir, 0o700), s)
		guest.Want("ok", "socket 5 stream")
		guest.Want(s.want, "bind 5 %s/x", s.name)
	}
}

// TestCredentials plays programs of root that become someone else, or see
// another tree: what counts is the thread's own, as in the kernel.
func TestCredentials(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	scenarios := []scenario{
		{name: "seteuid", fails: "EOPNOTSUPP", play: func(s *stage) {
			s.far.all("umask 22", "mkdir own", "socket 5 stream", "bind 5 h", "listen 5 9")
			s.near.all("umask 0", "socket 4 stream", "bind 4 own/w", "seteuid 44001", "socket 5 stream", "bind 5 own/x", "connect 5 h",
				"bind 5 n", "seteuid 0", "connect 5 h", "socket 6 stream", "bind 6 own/y")
		}},
		{name: "setuid", fails: "EOPNOTSUPP", play: func(s *stage) {
			s.far.all("umask 22", "mkdir own", "umask 0", "socket 5 stream", "bind 5 h", "listen 5 9")
			s.near.all("umask 0", "socket 4 stream", "bind 4 n", "listen 4 5", "setgroups", "setgid 44001", "setuid 44001",
				"socket 5 stream", "bind 5 own/x", "connect 5 h", "fork", "socket 6 stream", "bind 6 m", "listen 6 1")
			s.far.all("socket 7 stream", "connect 7 m", "send 7 x", "socket 8 stream", "connect 8 n")
			s.near.all("accept 6 7", "recv 7 4", "accept 4 8")
		}},
		{name: "mode of a socket", fails: "EOPNOTSUPP", play: func(s *stage) {
			s.near.all("umask 0", "setgroups", "setgid 44001", "setuid 44001", "socket 4 stream", "fchmod 4 600", "bind 4 n", "listen 4 5")
			s.far.all("stat n", "socket 8 stream", "connect 8 n", "send 8 x")
			s.near.all("accept 4 8", "recv 8 4")
		}},
		{name: "chroot", fails: "ECONNREFUSED", play: func(s *stage) {
			s.far.all("umask 0", "mkdir d", "socket 5 stream", "bind 5 d/h", "listen 5 9", "symlink /d/h abs")
			s.near.all("umask 0", "connect 5 abs", "chroot "+s.path(""), "socket 5 stream", "connect 5 /d/h", "send 5 x")
			s.peer(5, "/d/h", "h")
			s.near.all("chdir /d", "socket 6 stream", "connect 6 h", "socket 7 stream", "connect 7 ../../../abs",
				"socket 8 stream", "bind 8 /n", "getsockname 8", "listen 8 1")
			s.far.all("accept 5 6", "recv 6 9", "socket 7 stream", "connect 7 n")
			s.near.all("accept 8 9")
		}},
		{name: "mount namespace", fails: "ECONNREFUSED", play: func(s *stage) {
			s.far.all("umask 0", "mkdir d", "mkdir m", "socket 5 stream", "bind 5 d/h", "listen 5 9")
			s.near.all("umask 0", "unshare", "bindmount "+s.path("d")+" "+s.path("m"), "chdir "+s.path("m"),
				"socket 5 stream", "connect 5 h", "send 5 x", "socket 6 stream", "bind 6 "+s.path("m/n"), "getsockname 6", "listen 6 1",
				"socket 7 stream", "connect 7 "+s.path("m/h"), "socket 8 stream", "connect 8 ../h")
			s.far.all("accept 5 6", "recv 6 9", "socket 7 stream", "connect 7 m/n", "connect 7 d/n")
			s.near.all("accept 6 9", "umount "+s.path("m"), "socket 9 stream", "connect 9 "+s.path("m/h"))
		}},
	}
	everyWay(t, few, func(t *testing.T, w way) { playBy(t, w, scenarios) })
}

// TestGoneClient has a server of root ask who its client was when that has
// closed its end: never root, though a supervisor of root connected the two.
func TestGoneClient(t *testing.T) { everyWay(t, few, goneClient) }

func goneClient(t *testing.T, w way) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	r := rig.New(t, w.options())
	guest := rig.StartProbe(t, w.open(r)(rig.ProbeProgram(t)))
	for _, l := range []string{"umask 0", "socket 4 stream", "bind 4 n", "listen 4 5", "setgroups", "setgid 44001", "seteuid 44001",
		"socket 5 stream", "connect 5 n", "close 5", "seteuid 0"} {
		guest.Want("ok", "%s", l)
	}
	guest.Want("ok len=2", "accept 4 6")
	if got := guest.Do("peercred 6"); !strings.HasSuffix(got, " uid=44001 gid=44001") {
		t.Errorf("the client was %s, want uid=44001 gid=44001", got)
	}
}
