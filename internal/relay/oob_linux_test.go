package relay

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOutOfBand sends a byte by MSG_OOB among others, few and many: the far program
// gets it where it was sent, as from a kernel that knows no such thing, and misses none.
func TestOutOfBand(t *testing.T) {
	for i, n := range []int{3, 300_000, 3, 300_000} {
		r := [...]func(testing.TB) *bench{relayed, relayed, localOnly, localOnly}[i](t)
		a, b := os.NewFile(uintptr(r.a.fd), "a"), os.NewFile(uintptr(r.b.fd), "b")
		before, after := strings.Repeat("a", n), strings.Repeat("c", n)
		go func() {
			_, _ = a.WriteString(before)
			if err := unix.Sendto(int(a.Fd()), []byte("b"), unix.MSG_OOB, nil); err == unix.EOPNOTSUPP {
				_, _ = a.WriteString("b") // before Linux 5.15
			} else if err != nil {
				t.Error(err)
			}
			_, _ = a.WriteString(after)
		}()
		got := make([]byte, 2*n+1)
		late := time.AfterFunc(10*time.Second, func() { _ = b.Close(); _ = a.Close() })
		if m, err := io.ReadFull(b, got); err != nil || string(got) != before+"b"+after {
			t.Errorf("%d of %d bytes, %v, or others", m, len(got), err)
		}
		late.Stop()
		_ = a.Close()
		_ = b.Close()
		r.stop()
	}
}
