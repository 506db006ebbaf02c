package supervise

import (
	"math"
	"testing"
	"time"
)

func TestMilliseconds(t *testing.T) {
	for limit, want := range map[time.Duration]uint32{
		0:                       0,
		time.Nanosecond:         1, // SO_SNDTIMEO has microseconds
		1500 * time.Microsecond: 1,
		time.Second:             1000,
		100 * 24 * time.Hour:    math.MaxUint32,
	} {
		if got := milliseconds(limit); got != want {
			t.Errorf("milliseconds(%v) = %d, want %d", limit, got, want)
		}
	}
}
