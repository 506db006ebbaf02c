//go:build linux

package contract

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"drvsock/test/rig"
)

const (
	atOnce = 2000  // connections open at the same time
	inAll  = 20000 // short ones
	lanes  = 64    // of the short ones at a time
)

// roleVar makes this test binary play a program of either side.
const roleVar = "DRVSOCK_CONTRACT_ROLE"

// role plays "serve NAME", an echo server that ends with its stdin, "load NAME",
// which asks it, at each line of stdin, "churn NAME", or "refuse ERRNO CMD…".
func role(args []string) error {
	if args[0] == "refuse" {
		return refuse(args[1], args[2:])
	}
	if args[0] == "serve" {
		l, err := net.Listen("unix", args[1])
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}()
		fmt.Println("listening")
		for {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			go func() {
				_, _ = io.Copy(c, c)
				c.Close()
			}()
		}
	}
	if args[0] == "churn" {
		return churn(args[1])
	}
	var word string
	for {
		if _, err := fmt.Scan(&word); err != nil {
			return nil
		}
		var err error
		if word == "once" {
			err = loadAtOnce(args[1])
		} else {
			err = loadShort(args[1])
		}
		if err != nil {
			return err
		}
		fmt.Println("done", word)
	}
}

// ask sends a text that no other connection sends and wants it back.
func ask(c net.Conn, i int) error {
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	text := []byte(fmt.Sprintf("connection %06d", i))
	if _, err := c.Write(text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != string(text) {
		return fmt.Errorf("got %q for %q", got, text)
	}
	return nil
}

// each calls fn for 0 to n-1, lanes at a time, and returns the first error.
func each(n, lanes int, fn func(int) error) error {
	work := make(chan int)
	errs := make(chan error, lanes)
	var wg sync.WaitGroup
	for range lanes {
		wg.Go(func() {
			for i := range work {
				if err := fn(i); err != nil {
					select {
					case errs <- fmt.Errorf("connection %d: %w", i, err):
					default:
					}
				}
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
	close(errs)
	return <-errs
}

func loadAtOnce(name string) error {
	conns := make([]net.Conn, atOnce)
	err := each(atOnce, lanes, func(i int) (err error) {
		conns[i], err = net.Dial("unix", name)
		return err
	})
	for range 2 {
		if err == nil {
			err = each(atOnce, lanes, func(i int) error { return ask(conns[i], i) })
		}
	}
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
	return err
}

func loadShort(name string) error {
	return each(inAll, lanes, func(i int) error {
		c, err := net.Dial("unix", name)
		if err != nil {
			return err
		}
		defer c.Close()
		return ask(c, i)
	})
}

// use is what a process has of the machine.
type use struct{ fds, threads, rss int }

func usage(t *testing.T, pid int) use {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	u := use{fds: len(fds)}
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		switch f[0] {
		case "Threads:":
			u.threads, _ = strconv.Atoi(f[1])
		case "VmRSS:":
			u.rss, _ = strconv.Atoi(f[1])
		}
	}
	return u
}

// TestLoad opens very many connections, in both directions, without an error,
// and finds nothing left of them.
func TestLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"host serves", "guest serves"} {
		t.Run(dir, func(t *testing.T) {
			r := newRig(t, 0)
			command := func(guest bool, word string) *exec.Cmd {
				cmd := r.OnHost(self, word, "load.sock")
				if guest {
					cmd = r.Run(self, word, "load.sock")
				}
				cmd.Env = append(cmd.Env, roleVar+"=1")
				return cmd
			}
			server := rig.StartProbe(t, command(dir == "guest serves", "serve"))
			server.Ask("")
			if got := server.Answer(); got != "listening" {
				t.Fatalf("server: %s", got)
			}
			client := rig.StartProbe(t, command(dir == "host serves", "load"))
			loads(t, r, client)
		})
	}
}

func loads(t *testing.T, r *rig.Rig, client *rig.Probe) {
	var pids []int
	for end := time.Now().Add(limit); len(pids) < 2 && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		parts := r.Parts()
		pids = append(append([]int{}, parts["supervisor"]...), parts["agent"]...)
	}
	if len(pids) != 2 {
		t.Fatalf("parts: %v", r.Parts())
	}
	var before [2]use
	// The first round of each makes what is kept: threads, pools, caches.
	for round, word := range []string{"once", "short", "once", "short"} {
		start := time.Now()
		client.Ask("%s", word)
		if got := client.AnswerWithin(2 * time.Minute); got != "done "+word {
			t.Fatalf("%s: %s", word, got)
		}
		t.Logf("%s: %v", word, time.Since(start).Round(time.Millisecond))
		var after [2]use
		settled := func() bool {
			for i, pid := range pids {
				after[i] = usage(t, pid)
			}
			return round < 2 || after[0].fds <= before[0].fds+2 && after[1].fds <= before[1].fds+2
		}
		time.Sleep(300 * time.Millisecond)
		for end := time.Now().Add(5 * time.Second); !settled() && time.Now().Before(end); {
			time.Sleep(50 * time.Millisecond)
		}
		t.Logf("supervisor %+v, agent %+v", after[0], after[1])
		if round < 2 {
			before = after
			continue
		}
		for i, who := range []string{"supervisor", "agent"} {
			if after[i].fds > before[i].fds+2 || after[i].threads > before[i].threads+8 || after[i].rss > before[i].rss*3/2+20000 {
				t.Errorf("%s before %+v, after %+v", who, before[i], after[i])
			}
		}
	}
}
