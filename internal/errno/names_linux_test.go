package errno

import (
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The numbers and names are those of the system that they belong to.
func TestNamesAreLinux(t *testing.T) {
	for n, name := range names {
		sys := unix.ErrnoName(syscall.Errno(n))
		if name != sys && !(sys == "ENOTSUP" && name == "EOPNOTSUPP") {
			t.Errorf("%d is %s here, %s there", n, name, sys)
		}
	}
}

func TestFromSystemIsIdentity(t *testing.T) {
	for n := syscall.Errno(1); n < 134; n++ {
		got := FromSystem(n, LayerHost)
		if got.Errno != Errno(n) || got.System != uint32(n) || got.Text != n.Error() {
			t.Errorf("%v became %+v", n, *got)
		}
	}
	if got := FromSystem(syscall.Errno(70000), LayerHost); got.Errno != EIO || got.System != 70000 {
		t.Errorf("an impossible number became %+v", *got)
	}
}
