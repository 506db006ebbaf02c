package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// idle tells what connections cost that do nothing: resident memory of each process
// of drvsock's that has a part in them, without and with them.
func idle(w io.Writer, count int, c *contestant, roots ...*process) error {
	defer c.end()
	if _, err := c.do(order{Do: "trip", Count: 1000}); err != nil {
		return err
	}
	roots = append(roots, c.client)
	before := families(roots)
	start := time.Now()
	if _, err := c.do(order{Do: "hold", Count: count}); err != nil {
		return err
	}
	took := time.Since(start)
	time.Sleep(2 * time.Second)
	fmt.Fprintf(w, "%s: %d connections opened in %v\n", c.name, count, took.Round(time.Millisecond))
	var sum float64
	for _, a := range families(roots) {
		for _, b := range before {
			what := a.what[strings.LastIndexByte(a.what, ' ')+1:]
			if a.pid == b.pid && (strings.HasSuffix(what, "supervise") || what == "agent" || what == "daemon") {
				each := float64(a.rss-b.rss) / float64(count)
				sum += each
				fmt.Fprintf(w, "  %-10s %6d kB -> %6d kB, %.1f kB per connection, %d threads, %d descriptors\n",
					what, b.rss, a.rss, each, a.threads, a.fds)
			}
		}
	}
	fmt.Fprintf(w, "  %-10s %.1f kB per connection\n\n", "together", sum)
	return nil
}

// idles measures each way in, the daemon's with a daemon of its own.
func idles(count int, binary, self, host, dir, fwd string) error {
	fmt.Printf("%s\n\n", machine())
	c, err := drvsock("run --no-daemon", binary, self, host)
	if err != nil {
		return err
	}
	if err := idle(os.Stdout, count, c); err != nil {
		return err
	}
	for name, in := range map[string]func(d *daemon) (*contestant, error){
		"run":     func(d *daemon) (*contestant, error) { return d.run(self, host) },
		"forward": func(d *daemon) (*contestant, error) { return d.forward(self, fwd) },
	} {
		d, err := startDaemon(binary, host, filepath.Join(dir, name+".d"))
		if err != nil {
			return err
		}
		c, err := in(d)
		if err == nil {
			c.name = name
			err = idle(os.Stdout, count, c, d.p)
		}
		d.p.end(true)
		if err != nil {
			return err
		}
	}
	return nil
}

func families(roots []*process) (all []task) {
	for _, p := range roots {
		pid := p.cmd.Process.Pid
		all = append(all, describe(pid))
		all = append(all, family(pid)...)
	}
	return all
}

// A task is a process as /proc shows it.
type task struct {
	pid, rss, threads, fds int
	what                   string
}

// family lists the processes below pid.
func family(pid int) []task {
	var all []task
	children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, c := range children {
		b, err := os.ReadFile(c)
		if err != nil {
			continue // gone meanwhile
		}
		for _, f := range strings.Fields(string(b)) {
			child, err := strconv.Atoi(f)
			if err != nil {
				continue
			}
			all = append(all, describe(child))
			all = append(all, family(child)...)
		}
	}
	return all
}

func describe(pid int) task {
	dir := fmt.Sprintf("/proc/%d/", pid)
	t := task{pid: pid}
	cmdline, _ := os.ReadFile(dir + "cmdline")
	argv := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
	exe, _ := os.Readlink(dir + "exe")
	t.what = filepath.Base(exe)
	for _, a := range argv[1:min(len(argv), 2)] {
		t.what += " " + a
	}
	status, _ := os.ReadFile(dir + "status")
	for line := range bytes.Lines(status) {
		key, value, _ := strings.Cut(string(line), ":")
		n, _ := strconv.Atoi(strings.Fields(value + " 0")[0])
		switch key {
		case "VmRSS":
			t.rss = n
		case "Threads":
			t.threads = n
		}
	}
	fds, _ := os.ReadDir(dir + "fd")
	t.fds = len(fds)
	return t
}
