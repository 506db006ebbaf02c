package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// The other ways that people take across the border, as far as they can be played
// on one machine: -peers adds them.

// perConnection is what npiperelay does: a process at each end for each connection,
// here with socat in its place.
func perConnection(self, host, dir string) (*contestant, error) {
	return listening("process each", self, dir, func(name, listen string) []string {
		return []string{"socat", "-lf/dev/null", "UNIX-LISTEN:" + listen + ",fork,backlog=4096",
			"EXEC:socat -lf/dev/null STDIO UNIX-CONNECT\\:" + filepath.Join(host, name+".sock")}
	})
}

// overYamux is a chain of the kind that drvsock is, made of a library: a process that
// listens, hashicorp/yamux on two pipes, a process that connects.
func overYamux(self, host, dir string) (*contestant, error) {
	p, err := start(self, "yamux-near", dir, self, host)
	if err != nil {
		return nil, err
	}
	c := &contestant{name: "yamux", relays: []*process{p}}
	for name := range services {
		if err := appears(filepath.Join(dir, name+".sock")); err != nil {
			return nil, err
		}
	}
	c.client, err = start(append(quiet[:len(quiet):len(quiet)], self, "client", dir)...)
	return c, err
}

// overSSH is ssh -L between Unix sockets, over a server of its own on loopback.
func overSSH(self, host, dir string) (*contestant, error) {
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		if sshd, err = exec.LookPath("/usr/sbin/sshd"); err != nil {
			return nil, err
		}
	}
	if os.Geteuid() == 0 { // where sshd separates privileges
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return nil, err
		}
	}
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ssh-keygen: %w\n%s", err, out)
		}
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	log := filepath.Join(dir, "sshd.log")
	server, err := start(sshd, "-D", "-f", "/dev/null", "-E", log, "-p", port, "-h", filepath.Join(dir, "host"),
		"-o", "ListenAddress=127.0.0.1", "-o", "PidFile=none", "-o", "StrictModes=no", "-o", "UsePAM=no", "-o", "PermitRootLogin=yes",
		"-o", "AuthorizedKeysFile="+filepath.Join(dir, "user.pub"))
	if err != nil {
		return nil, err
	}
	argv := []string{"ssh", "-N", "-F", "none", "-p", port, "-i", filepath.Join(dir, "user"), "-o", "BatchMode=yes", "-o", "ConnectionAttempts=20",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "IdentityAgent=none", "-o", "Compression=no"}
	for name := range services {
		argv = append(argv, "-L", filepath.Join(dir, name+".sock")+":"+filepath.Join(host, name+".sock"))
	}
	client, err := start(append(argv, "127.0.0.1")...)
	if err != nil {
		return nil, err
	}
	c := &contestant{name: "ssh -L", relays: []*process{client, server}}
	for name := range services {
		if err := appears(filepath.Join(dir, name+".sock")); err != nil {
			said, _ := os.ReadFile(log)
			return nil, fmt.Errorf("ssh: %w\n%s", err, said)
		}
	}
	c.client, err = start(append(quiet[:len(quiet):len(quiet)], self, "client", dir)...)
	return c, err
}

// freePort finds a port of loopback that nobody has right now.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return "", errors.New("no TCP address")
	}
	return strconv.Itoa(addr.Port), l.Close()
}
