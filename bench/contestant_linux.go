package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds one measurement, and the end of a process.
const patience = 2 * time.Minute

// A process is this program in another role, or a relay.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *os.File
	r   *bufio.Reader
}

// quiet is put before a measuring process, so that nothing but its measuring
// threads runs in it.
var quiet = []string{"env", "GOGC=off", "GOMAXPROCS=32", "GODEBUG=asyncpreemptoff=1"}

// start starts argv, which ends when its stdin does or by SIGTERM.
func start(argv ...string) (*process, error) { return startLogging(os.Stderr, argv...) }

// startLogging is start for a program whose messages go to log.
func startLogging(log *os.File, argv ...string) (*process, error) {
	p := &process{cmd: exec.Command(argv[0], argv[1:]...)}
	p.cmd.Stderr = log
	// Nothing survives this program, however it ends.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGTERM}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout = w
	p.in, p.out, p.r = in, r, bufio.NewReader(r)
	err = p.cmd.Start()
	_ = w.Close()
	if err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	return p, nil
}

// line reads a line of its stdout.
func (p *process) line() ([]byte, error) {
	if err := p.out.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	return p.r.ReadBytes('\n')
}

// end closes stdin, asks, and then kills.
func (p *process) end(ask bool) {
	_ = p.in.Close()
	if ask {
		_ = p.cmd.Process.Signal(unix.SIGTERM)
	}
	t := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Kill() })
	_ = p.cmd.Wait()
	t.Stop()
	_ = p.out.Close()
}

// A contestant is a way from a client to the server.
type contestant struct {
	name   string
	ours   bool // it is drvsock
	client *process
	relays []*process
}

func (c *contestant) do(o order) ([]int64, error) {
	if err := json.NewEncoder(c.client.in).Encode(o); err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	b, err := c.client.line()
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", c.name, o.Do, err)
	}
	var r result
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: answer %q: %w", c.name, b, err)
	}
	if r.Err != "" {
		return nil, fmt.Errorf("%s: %s", c.name, r.Err)
	}
	return r.Nanos, nil
}

func (c *contestant) end() {
	c.client.end(false)
	for _, r := range c.relays {
		r.end(true)
	}
}

// native connects the client to the server itself.
func native(self, host string) (*contestant, error) {
	p, err := start(append(quiet[:len(quiet):len(quiet)], self, "client", host)...)
	return &contestant{name: "native", client: p}, err
}

// socat puts one hop between, as people use it: a listener per service, a
// process per connection, its own buffer size.
func socat(self, host, dir string) (*contestant, error) {
	return listening("socat", self, dir, func(name, listen string) []string {
		return []string{"socat", "-lf/dev/null", "UNIX-LISTEN:" + listen + ",fork,backlog=4096",
			"UNIX-CONNECT:" + filepath.Join(host, name+".sock")}
	})
}

// listening is a contestant with a relay for each service, which listens in dir.
func listening(name, self, dir string, relay func(service, listen string) []string) (*contestant, error) {
	c := &contestant{name: name}
	for service := range services {
		listen := filepath.Join(dir, service+".sock")
		p, err := start(relay(service, listen)...)
		if err != nil {
			return nil, err
		}
		c.relays = append(c.relays, p)
		if err := appears(listen); err != nil {
			return nil, err
		}
	}
	var err error
	c.client, err = start(append(quiet[:len(quiet):len(quiet)], self, "client", dir)...)
	return c, err
}

// drvsock has two hops between: the supervisor and the agent of an embedded host.
func drvsock(name, binary, self, host string) (*contestant, error) {
	argv := append([]string{binary, "run", "--embed", "C=" + host, "--"}, quiet...)
	p, err := start(append(argv, self, "client", host)...)
	return &contestant{name: name, ours: true, client: p}, err
}

func appears(path string) error {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
	}
	return errors.New(path + " does not appear")
}
