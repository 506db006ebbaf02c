package main

import (
	"cmp"
	"slices"
)

// A figure is one number that is measured of each contestant in each round.
type figure struct {
	name string
	unit string // "us" and "ratio" are better low, "MB/s" better high
	of   func(ns []int64) float64
}

// A measurement is one order and what is read off its result.
type measurement struct {
	order   order
	figures []figure
}

const mib = 1 << 20

// unreadCost is the time of a stream beside one that nobody reads, over its time
// alone.
const unreadCost = "one stream up beside one unread"

// measurements are the figures at scale 1; a round takes about five seconds
// then.
func measurements(scale float64) []measurement {
	n := func(count int) int { return max(int(float64(count)*scale), 20) }
	bytes := func(mibs int64) int64 { return max(int64(float64(mibs)*scale), 1) * 8 * mib }
	latency := func(what string) []figure {
		return []figure{{what + ", p50", "us", quantile(0.5)}, {what + ", p99", "us", quantile(0.99)}}
	}
	bulk := func(what, do string, streams int) measurement {
		o := order{Do: do, Streams: streams, Bytes: bytes(32)}
		rate := func(ns []int64) float64 { return float64(o.Bytes) / (float64(ns[0]) / 1e9) / 1e6 }
		return measurement{o, []figure{{what, "MB/s", rate}}}
	}
	return []measurement{
		{order{Do: "connect", Count: n(200)}, latency("connect + first byte")},
		{order{Do: "trip", Count: n(3000)}, latency("round trip")},
		{order{Do: "beside", Count: n(500)}, latency("round trip beside bulk")},
		bulk("one stream up", "up", 1),
		bulk("one stream down", "down", 1),
		bulk("eight streams up", "up", 8),
		bulk("eight streams down", "down", 8),
		{order{Do: "unread", Streams: 1, Bytes: bytes(16)}, []figure{{unreadCost, "ratio", func(ns []int64) float64 { return float64(ns[1]) / float64(ns[0]) }}}},
	}
}

// quantile returns a function that gives the q-quantile in microseconds.
func quantile(q float64) func(ns []int64) float64 {
	return func(ns []int64) float64 { return nth(ns, q) / 1e3 }
}

func nth(v []int64, q float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return float64(s[min(int(q*float64(len(s))), len(s)-1)])
}

// A spread is the middle and the range of a number over the rounds.
type spread struct {
	Median, Min, Max float64
}

func spreadOf(v []float64) spread {
	s := slices.Clone(v)
	slices.SortFunc(s, cmp.Compare[float64])
	m := s[len(s)/2]
	if len(s)%2 == 0 {
		m = (s[len(s)/2-1] + m) / 2
	}
	return spread{m, s[0], s[len(s)-1]}
}

// ratios divides round by round, so that a slow minute of the machine is in
// both numbers.
func ratios(a, b []float64) spread {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = a[i] / b[i]
	}
	return spreadOf(r)
}
