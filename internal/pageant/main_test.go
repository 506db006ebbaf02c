package pageant

import (
	"testing"

	"go.uber.org/goleak"
)

// verify runs the tests and looks for goroutines that they leave.
func verify(m *testing.M) { goleak.VerifyTestMain(m) }
