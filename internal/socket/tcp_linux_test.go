package socket

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"drvsock/internal/endpoint"
	"drvsock/internal/errno"
	"drvsock/internal/wire"

	"golang.org/x/sys/unix"
)

func tcpName(address string) endpoint.Name {
	return endpoint.Name{Network: wire.NetTCP, Path: address}
}

func TestTCP(t *testing.T) {
	noDescriptorLeft(t)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", "127.9.8.7:0"} {
		l, err := Listen(tcpName(address), plain())
		if err != nil && strings.HasPrefix(address, "[") {
			t.Logf("no IPv6 here: %v", err)
			continue
		}
		check(t, err)
		if strings.HasSuffix(l.Addr(), ":0") || !strings.HasPrefix(l.Addr(), strings.TrimSuffix(address, "0")) {
			t.Errorf("address %s", l.Addr())
		}
		peers := echo(l)
		converse(t, dial(t, tcpName(l.Addr())), strings.Repeat("text", 1<<16))
		if p := <-peers; p.Caller != (wire.Caller{UID: uint32(os.Getuid()), GID: NoID}) {
			t.Errorf("caller %+v", p.Caller)
		}
		_, err = Listen(tcpName(l.Addr()), plain())
		refused(t, err, errno.EADDRINUSE)
		check(t, l.Close())
		check(t, l.Close())
		for range peers {
		}
		_, err = Dial(t.Context(), tcpName(l.Addr()))
		refused(t, err, errno.ECONNREFUSED)
	}
}

// The user of a caller is the kernel's word.
func TestTCPCaller(t *testing.T) {
	needRoot(t)
	noDescriptorLeft(t)
	l, err := Listen(tcpName("127.0.0.1:0"), plain())
	check(t, err)
	defer l.Close()
	peers := echo(l)
	roles := []string{"tcp"}
	if fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0); err == nil {
		unix.Close(fd)
		roles = append(roles, "tcp both families")
	}
	for _, role := range roles {
		said, end := running(t, child(t, nobody, role, l.Addr()))
		if said != "<nil>" {
			t.Errorf("%s: %s", role, said)
		} else if p := <-peers; p.Caller.UID != nobody {
			t.Errorf("%s: caller %+v", role, p.Caller)
		}
		end()
	}
}

func TestTCPLoopbackOnly(t *testing.T) {
	for address, want := range map[string]errno.Errno{
		"0.0.0.0:80": errno.EACCES, "192.0.2.1:80": errno.EACCES, "[::]:80": errno.EACCES, "[fe80::1%lo]:80": errno.EACCES,
		"[::1%lo]:80": errno.EACCES, "localhost:80": errno.EINVAL, ":80": errno.EINVAL, "127.0.0.1": errno.EINVAL, "127.0.0.1:http": errno.EINVAL,
	} {
		_, err := Dial(t.Context(), tcpName(address))
		refused(t, err, want)
		_, err = Listen(tcpName(address), plain())
		refused(t, err, want)
	}
}

// Abort gives the peer ECONNRESET.
func TestTCPAbort(t *testing.T) {
	noDescriptorLeft(t)
	l, err := Listen(tcpName("127.0.0.1:0"), plain())
	check(t, err)
	defer l.Close()
	c := dial(t, tcpName(l.Addr()))
	defer c.Close()
	served, _, err := l.Accept()
	check(t, err)
	served.(interface{ Abort() }).Abort()
	check(t, served.Close())
	if _, err := c.Read(make([]byte, 1)); errno.Of(errno.FromSystem(err, 0)) != errno.Errno(syscall.ECONNRESET) {
		t.Errorf("read after Abort: %v", err)
	}
}

// A file that stands for a socket may lie on either side, so what is wrong with it
// is said of the caller's.
func TestStandInLayer(t *testing.T) {
	noDescriptorLeft(t)
	file := folder(t) + "/S.agent"
	check(t, os.WriteFile(file, []byte("no port"), 0o600))
	for _, network := range []wire.Network{wire.NetAssuan, wire.NetCygwin} {
		n := endpoint.Name{Network: network, Path: file}
		for _, layer := range []errno.Layer{errno.LayerGuest, errno.LayerHost} {
			_, err := Dial(t.Context(), n)
			if e := errno.FromSystem(err, layer); e == nil || e.Errno != errno.ECONNREFUSED || e.Layer != layer {
				t.Errorf("%v: dial: %v, want ECONNREFUSED of the %v", network, e, layer)
			}
			_, err = Listen(n, plain())
			if e := errno.FromSystem(err, layer); e == nil || e.Errno != errno.EADDRINUSE || e.Layer != layer {
				t.Errorf("%v: listen: %v, want EADDRINUSE of the %v", network, e, layer)
			}
		}
	}
}
