package errno

import (
	"syscall"
	"testing"
)

func TestInventedNumbers(t *testing.T) {
	for n, want := range invented {
		if n < syscall.APPLICATION_ERROR {
			t.Errorf("%d is Windows's own number and belongs in windowsErrors", uintptr(n))
		}
		if got := FromSystem(n, LayerHost); got.Errno != want || got.System != 0 {
			t.Errorf("%d became %+v, want %v without a number", uintptr(n), *got, want)
		}
	}
}
