package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSpread(t *testing.T) {
	for _, tt := range []struct {
		in   []float64
		want spread
	}{
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{9, 1, 4}, spread{4, 1, 9}},
		{[]float64{8, 2, 4, 1}, spread{3, 1, 8}},
	} {
		if d := cmp.Diff(tt.want, spreadOf(tt.in)); d != "" {
			t.Errorf("spread of %v (-want +got):\n%s", tt.in, d)
		}
	}
}

// TestRatios wants the rounds divided one by one, before the median is taken.
func TestRatios(t *testing.T) {
	got := ratios([]float64{2, 40, 30}, []float64{1, 10, 30})
	if want := (spread{2, 1, 4}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestQuantile(t *testing.T) {
	ns := make([]int64, 100)
	for i := range ns {
		ns[i] = int64(100-i) * 1000
	}
	for q, want := range map[float64]float64{0: 1, 0.5: 51, 0.99: 100, 1: 100} {
		if got := quantile(q)(ns); got != want {
			t.Errorf("quantile %v: got %v us, want %v", q, got, want)
		}
	}
}
