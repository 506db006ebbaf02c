package forward

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"

	"drvsock/internal/config"
)

// TestRemoved: when a forward is removed, its listener is gone on either side, so
// that another program can have the place at once.
func TestRemoved(t *testing.T) {
	r := newRig(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	port := taken.Addr().String()
	check(t, taken.Close())
	tests := []struct{ name, listen, network, address string }{
		{"host", `C:\x`, "unix", filepath.Join(r.drive, "x")},
		{"guest", r.guest + "/x", "unix", filepath.Join(r.guest, "x")},
		{"host tcp", "tcp:" + port, "tcp", port},
		{"assuan", `assuan:C:\a`, "", filepath.Join(r.drive, "a")},
		{"cygwin", `cygwin:C:\c`, "", filepath.Join(r.drive, "c")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for i := range 200 {
				r.add(t, config.Forward{Name: "x", Listen: tt.listen, Connect: "@nowhere"})
				check(t, r.set.Remove("x"))
				if tt.network == "" {
					if _, err := os.Lstat(tt.address); !errors.Is(err, fs.ErrNotExist) {
						t.Fatalf("after %d: %v", i, err)
					}
					continue
				}
				l, err := net.Listen(tt.network, tt.address)
				if err != nil {
					t.Fatalf("after %d: %v", i, err)
				}
				check(t, l.Close())
			}
		})
	}
}

// TestSwapped: forwards that change places in one reload don't meet.
func TestSwapped(t *testing.T) {
	r := newRig(t)
	for _, dir := range []string{`C:\`, r.guest + "/"} {
		for i := range 100 {
			err := errors.Join(r.set.Apply([]config.Forward{
				{Name: "a", Listen: dir + string("xy"[i%2]), Connect: "@nowhere"},
				{Name: "b", Listen: dir + string("yx"[i%2]), Connect: "@nowhere"},
			})...)
			if err != nil {
				t.Fatalf("%s: after %d: %v", dir, i, err)
			}
		}
	}
}
