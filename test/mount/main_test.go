//go:build linux

package mount

import (
	"testing"
	"time"

	"drvsock/test/rig"
)

func TestMain(m *testing.M) {
	makeCalls()
	rig.Main(m)
}

// limit bounds what must not hang.
const limit = 20 * time.Second
