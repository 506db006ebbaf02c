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

// idle tells what connections cost that do nothing: memory of the supervisor
// and of the agent, without and with them.
func idle(w io.Writer, count int, binary, self, host string) error {
	c, err := drvsock("drvsock", binary, self, host)
	if err != nil {
		return err
	}
	defer c.end()
	if _, err := c.do(order{Do: "trip", Count: 1000}); err != nil {
		return err
	}
	before := family(c.client.cmd.Process.Pid)
	start := time.Now()
	if _, err := c.do(order{Do: "hold", Count: count}); err != nil {
		return err
	}
	took := time.Since(start)
	time.Sleep(2 * time.Second)
	after := family(c.client.cmd.Process.Pid)
	fmt.Fprintf(w, "%s; %d connections opened in %v\n", machine(), count, took.Round(time.Millisecond))
	for _, a := range after {
		for _, b := range before {
			if a.pid == b.pid && (strings.HasSuffix(a.what, "supervise") || strings.HasSuffix(a.what, " agent")) {
				fmt.Fprintf(w, "%-40s %6d kB -> %6d kB, %.1f kB per connection, %d threads, %d descriptors\n",
					a.what, b.rss, a.rss, float64(a.rss-b.rss)/float64(count), a.threads, a.fds)
			}
		}
	}
	return nil
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
