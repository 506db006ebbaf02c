package mount

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const containedVar = "DRVSOCK_TEST_CONTAINED"

// TestContained is the program of TestAbortElsewhere.
func TestContained(t *testing.T) {
	path := os.Getenv(containedVar)
	if path == "" {
		t.Skip("is no test by itself")
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(limit))
	_, err = c.Read(make([]byte, 1))
	fmt.Println("connected", err)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the link was lost: %v, want %v", err, unix.ECONNRESET)
	}
}

// TestAbortElsewhere has a program in another network namespace, as in a container,
// lose its connection: it is told of a failure and not of an end.
func TestAbortElsewhere(t *testing.T) {
	beneath, at, h, _ := mounted(t, nil)
	l, err := net.Listen("unix", beneath+"/h")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestContained$")
	cmd.Env = append(os.Environ(), containedVar+"="+at+"/h")
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Skip(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	r := bufio.NewReader(out)
	if line, err := r.ReadString('\n'); line != "connected <nil>\n" {
		t.Errorf("program: %q, %v", line, err)
	}
	h.lose()
	said, _ := io.ReadAll(r)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, said)
	}
}
