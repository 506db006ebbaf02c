package control

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if stranger() {
		return
	}
	goleak.VerifyTestMain(m)
}
