//go:build linux

package soak

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A cable is a network of two namespaces, one for this machine and one for a box,
// and what joins them.
type cable struct {
	t          *testing.T
	guest, box string // their names
}

const boxAddr = "192.0.2.2" // TEST-NET-1, RFC 5737

func newCable(t *testing.T) *cable {
	t.Helper()
	n := rand.IntN(1e8)
	w := &cable{t: t, guest: fmt.Sprintf("drvsock-guest-%d", n), box: fmt.Sprintf("drvsock-box-%d", n)}
	for _, ns := range []string{w.guest, w.box} {
		if out, err := exec.Command("ip", "netns", "add", ns).CombinedOutput(); err != nil {
			t.Skipf("no network namespaces: %v: %s", err, out)
		}
		t.Cleanup(func() {
			if out, err := exec.Command("ip", "netns", "del", ns).CombinedOutput(); err != nil {
				t.Errorf("removing of a network namespace: %v: %s", err, out)
			}
		})
	}
	for _, l := range []string{
		"-n GUEST link add cable type veth peer name cable netns BOX",
		"-n GUEST addr add 192.0.2.1/30 dev cable",
		"-n BOX addr add " + boxAddr + "/30 dev cable",
		"-n GUEST link set cable up",
		"-n BOX link set cable up",
		"-n BOX link set lo up",
	} {
		w.ip(l)
	}
	return w
}

// ip runs ip(8) with a line of arguments.
func (w *cable) ip(line string) {
	w.t.Helper()
	line = strings.NewReplacer("GUEST", w.guest, "BOX", w.box).Replace(line)
	if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
		w.t.Fatalf("ip %s: %v: %s", line, err, out)
	}
}

// sshd starts a server on the box that lets this user in with a key made for it,
// and returns the client's configuration, which knows it as "box".
func (w *cable) sshd(s *site) string {
	t := w.t
	t.Helper()
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", s.path(key)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	public, err := os.ReadFile(s.path("host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"sshd_config": "ListenAddress " + boxAddr + "\nHostKey " + s.path("host") + "\nAuthorizedKeysFile " + s.path("user.pub") +
			"\nPidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n",
		"known_hosts": boxAddr + " " + string(public),
		"ssh_config": "Host box\nHostName " + boxAddr + "\nUser root\nIdentityFile " + s.path("user") + "\nIdentitiesOnly yes\n" +
			"UserKnownHostsFile " + s.path("known_hosts") + "\nBatchMode yes\n",
	}
	s.own = []string{"host", "host.pub", "user", "user.pub"}
	for name, text := range files {
		s.own = append(s.own, name)
		if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const folder = "/run/sshd" // it wants one for its unprivileged processes; others use it too
	if err := os.Mkdir(folder, 0o755); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	cmd := s.As(0, "/", append(inside(w.box), "/usr/sbin/sshd", "-D", "-e", "-f", s.path("sshd_config"))...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	until(t, 30*time.Second, "sshd serves", func() bool {
		return w.ssh(s.path("ssh_config"), "true").Run() == nil
	})
	return s.path("ssh_config")
}

func (w *cable) ssh(config string, args ...string) *exec.Cmd {
	argv := append(inside(w.guest), "ssh", "-F", config, "box")
	return exec.Command(argv[0], append(argv[1:], args...)...)
}

// inside begins a command line in a network namespace. ip netns exec would make a
// mount namespace as well, which keeps the views of all other tests from ending.
func inside(ns string) []string { return []string{"nsenter", "--net=/run/netns/" + ns} }

// Bounds of a link by ssh: TCP itself takes some seconds to notice that the
// network is back, and so does a try that began before.
const backNetwork = 20 * time.Second

// meet has one program listen and another connect, and a byte go each way.
func meet(listen, dial string) error {
	l, err := net.Listen("unix", listen)
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := net.Dial("unix", dial)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = l.(*net.UnixListener).SetDeadline(time.Now().Add(backNetwork))
	a, err := l.Accept()
	if err != nil {
		return err
	}
	defer a.Close()
	b := make([]byte, 1)
	for _, e := range [][2]net.Conn{{c, a}, {a, c}} {
		_ = e[1].SetDeadline(time.Now().Add(backNetwork))
		if _, err = e[0].Write([]byte("x")); err == nil {
			_, err = e[1].Read(b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// TestSSH has the agent on another machine, as far as the network goes: all
// routes work by ssh, and a mount in both directions. They outlive a cable that is out
// for a moment, and come back after one that was out for long.
func TestSSH(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	for _, p := range []string{"ip", "nsenter", "ssh", "ssh-keygen", "/usr/sbin/sshd"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip(err)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	t.Parallel()
	w := newCable(t)
	s := startSoak(t, "light", false, func(s *site, agent string) string {
		return strings.Join(w.ssh(w.sshd(s), agent).Args, " ")
	})
	if err := os.Mkdir(s.Host+"/m", 0o755); err != nil {
		t.Fatal(err)
	}
	folder := s.View + "/m"
	s.do("mount", folder)
	mounted := func(when string) {
		t.Helper()
		for _, way := range [][2]string{{folder + "/guest", s.Host + "/m/guest"}, {s.Host + "/m/host", folder + "/host"}} {
			var err error
			for end := time.Now().Add(backNetwork); ; time.Sleep(100 * time.Millisecond) {
				if err = meet(way[0], way[1]); err == nil || time.Now().After(end) {
					break
				}
			}
			if err != nil {
				t.Errorf("%s, in the mount: listen on %s, connect to %s: %v", when, way[0], way[1], err)
			}
		}
	}
	s.say("go")
	s.await(backDead, time.Now(), "the routes work")
	mounted("at first")

	out := time.Now()
	w.ip("-n BOX link set cable down")
	time.Sleep(3 * time.Second)
	w.ip("-n BOX link set cable up")
	s.await(backNetwork, time.Now(), "the routes work after a moment without network")
	t.Logf("cable out for 3 s: all works again after %v", time.Since(out))
	mounted("after a moment without network")
	s.mu.Lock()
	for _, c := range s.cut {
		t.Errorf("a connection failed: %+v", c)
	}
	s.mu.Unlock()

	out = time.Now()
	w.ip("-n BOX link set cable down")
	time.Sleep(22 * time.Second)
	w.ip("-n BOX link set cable up")
	in := time.Now()
	s.await(backNetwork, in, "the routes are back with the network")
	met, fails, _ := s.times(out, in)
	t.Logf("cable out for 22 s: %d streams failed after %v, all works %v after the network", len(met), fails, time.Since(in))
	if len(met) == 0 || fails > afterDead {
		t.Errorf("%d streams failed after %v, more than %v", len(met), fails, afterDead)
	}
	mounted("after long without network")
	s.do("umount", folder)
	s.finish(nil)
}
