// Package hyperv makes connections between a WSL 2 guest and its Windows host by
// Hyper-V sockets: AF_VSOCK on Linux, AF_HYPERV on Windows. They need no port, no
// firewall's leave and no administrator.
//
// The guest dials and the host listens, since that direction needs nothing of
// the guest's own: any process of a guest may listen where another one would.
package hyperv

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/Microsoft/go-winio/pkg/guid"
)

// DialLimit bounds a dial. A port on which nobody listens doesn't refuse
// (hyperv_transport.c knows no answer but an offer), so the end of this time is
// what a missing listener looks like. A listener answers within milliseconds.
const DialLimit = 3 * time.Second

// An ID is that of a virtual machine. WSL's machine has a new one each time it
// starts, and hosts must listen for exactly that one: wildcards don't match
// (microsoft/WSL#5751).
type ID = guid.GUID

// ParseID reads an id with or without braces.
func ParseID(s string) (ID, error) {
	t := strings.TrimSpace(s)
	if in, ok := strings.CutPrefix(t, "{"); ok {
		t = strings.TrimSuffix(in, "}")
	}
	id, err := guid.FromString(t)
	if err != nil || id == (ID{}) {
		return ID{}, fmt.Errorf("%.64q is no id of a virtual machine", s)
	}
	return id, nil
}

// Missing says why this guest can't dial its host, nil if it may be able to. It
// asks nobody.
func Missing() error { return thisSystem.missing() }

// MachineID returns the id of the virtual machine that this guest is, as its
// init says, within a few seconds. env is the environment for the question, whose
// WSL_INTEROP must not name a socket that is dead.
func MachineID(ctx context.Context, env []string) (ID, error) { return thisSystem.machineID(ctx, env) }

// Dial connects to a port of the host, within DialLimit. The file doesn't block.
// No answer is an error that wraps os.ErrDeadlineExceeded and never a refusal:
// nobody may listen, or the host may not know this machine any more.
func Dial(ctx context.Context, port string) (*os.File, error) {
	n, err := parsePort(port)
	if err != nil {
		return nil, err
	}
	return dial(ctx, hostCID, n, DialLimit)
}

// hostCID is VMADDR_CID_HOST.
const hostCID = 2

// Listen listens on a random port for the machine with this id, and on the same
// one for each machine that this account runs if machine is "". It returns the
// port as Dial wants it. Only Windows can.
func Listen(machine string) (net.Listener, string, error) {
	ids, err := machines(machine, finders)
	if err != nil {
		return nil, "", err
	}
	for try := 0; ; try++ {
		port := randomPort()
		ln, err := listenAll(ids, port, listen)
		if err == nil {
			return ln, strconv.FormatUint(uint64(port), 10), nil
		}
		if try == 3 || !inUse(err) {
			return nil, "", fmt.Errorf("listen on port %d: %w", port, err)
		}
	}
}

// The ports from which a listener's is taken. Below are those that others give
// out by hand, such as WSL's own 50000 and following; above, nobody may listen:
// those are for the other end of the host's own connections (MAX_LISTEN_PORT of
// hyperv_transport.c).
const (
	firstPort = 1 << 30
	lastPort  = 1<<31 - 1
)

func randomPort() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return firstPort | binary.NativeEndian.Uint32(b[:])&(firstPort-1)
}

func parsePort(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n < firstPort || n > lastPort {
		return 0, fmt.Errorf("%.32q is no port of a listener", s)
	}
	return uint32(n), nil
}
