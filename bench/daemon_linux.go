package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// A daemon of its own serves two contestants: drvsock run that borrows its link,
// and forwards.
type daemon struct {
	binary string
	env    []string // env NAME=VALUE…, in front of a command
	p      *process
}

// startDaemon starts a daemon whose folder and configuration lie in dir.
func startDaemon(binary, host, dir string) (*daemon, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	d := &daemon{binary: binary, env: []string{"env", "XDG_RUNTIME_DIR=" + dir, "XDG_CONFIG_HOME=" + dir}}
	// It notes each connection, as the one of a user does, into a file.
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if d.p, err = startLogging(log, d.with(binary, "daemon", "--embed", "C="+host)...); err != nil {
		return nil, err
	}
	if err := appears(filepath.Join(dir, "drvsock", "control.sock")); err != nil {
		d.p.end(true)
		said, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("daemon: %w\n%s", err, said)
	}
	return d, nil
}

func (d *daemon) with(argv ...string) []string { return append(d.env[:len(d.env):len(d.env)], argv...) }

// run has three hops between client and server: the supervisor, the daemon and
// its agent.
func (d *daemon) run(self, host string) (*contestant, error) {
	argv := append(d.with(d.binary, "run", "--"), quiet...)
	p, err := start(append(argv, self, "client", host)...)
	return &contestant{name: "daemon", ours: true, client: p}, err
}

// forward has two: the daemon and its agent.
func (d *daemon) forward(self, dir string) (*contestant, error) {
	for name := range services {
		argv := d.with(d.binary, "forward", filepath.Join(dir, name+".sock"), `C:\`+name+".sock")
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("drvsock forward: %w\n%s", err, out)
		}
	}
	p, err := start(append(quiet[:len(quiet):len(quiet)], self, "client", dir)...)
	return &contestant{name: "forward", ours: true, client: p}, err
}
