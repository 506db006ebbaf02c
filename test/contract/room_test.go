//go:build linux

package contract

import (
	"net"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"drvsock/test/rig"
)

// TestNoDescriptorLeft has a tree use up the supervisor's descriptors. What can't be
// served fails for that reason and for no other, what is none of our calls goes on,
// and all is well once there are some again.
func TestNoDescriptorLeft(t *testing.T) {
	r := newRig(t, 0)
	host := rig.StartProbe(t, r.OnHost(rig.ProbeProgram(t)))
	for _, l := range []string{"umask 0", "socket 5 stream", "bind 5 h", "listen 5 1000"} {
		host.Want("ok", "%s", l)
	}
	guest := rig.StartProbe(t, r.Run(rig.ProbeProgram(t)))
	for _, l := range []string{"umask 0", "socket 5 stream", "bind 5 n"} {
		guest.Want("ok", "%s", l)
	}
	elsewhere := filepath.Join(rig.Dir(t), "native")
	native, err := net.Listen("unix", elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	defer native.Close()
	if err := unix.Chmod(elsewhere, 0o777); err != nil {
		t.Fatal(err)
	}
	const most = 80 // some are kept back, and it has about ten of its own
	for _, p := range r.Parts()["supervisor"] {
		if err := unix.Prlimit(p, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: most}, nil); err != nil {
			t.Fatal(err)
		}
	}
	served := 0
	const first, last = 20, 150
	for fd := first; fd < last; fd++ {
		guest.Want("ok", "socket %d stream", fd)
		switch got := guest.Do("connect %d h", fd); {
		case got == "ok" && served == fd-first:
			served++
		case got != "EMFILE":
			t.Fatalf("connection %d, after %d that were served: %s", fd-first, served, got)
		}
	}
	if served == 0 || served >= most {
		t.Errorf("%d connections with %d descriptors", served, most)
	}
	for _, l := range []string{"socket 6 stream", "connect 6 " + elsewhere, "socket 7 inet", "bind 7 inet:0", "listen 7 5", "listen 5 5"} {
		guest.Want("ok", "%s", l)
	}
	guest.Want("ok", "socket 8 stream")
	guest.Want("EMFILE", "bind 8 m")
	for fd := first; fd < last; fd++ {
		guest.Want("ok", "close %d", fd)
	}
	guest.Want("ok", "sleep 500")
	for _, l := range []string{"bind 8 m", "socket 9 stream", "connect 9 h"} {
		guest.Want("ok", "%s", l)
	}
	host.Want("ok", "socket 6 stream")
	host.Want("ok", "connect 6 n")
	guest.Want("ok len=2", "accept 5 6")
}
