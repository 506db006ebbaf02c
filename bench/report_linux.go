package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// A report holds every number of a run.
type report struct {
	Machine string
	Rounds  int
	Names   []string // of the contestants, in order
	Ours    []string // those of them that are drvsock
	Figures []*row
}

// A row is one figure of all contestants.
type row struct {
	Name, Unit string
	Rounds     map[string][]float64 // by contestant
	Spread     map[string]spread
	OverNative map[string]spread // ratio to native
	OverSocat  map[string]spread // ratio to socat
}

func newReport(cs []*contestant, rounds int) *report {
	r := &report{Machine: machine(), Rounds: rounds}
	for _, c := range cs {
		r.Names = append(r.Names, c.name)
		if c.ours {
			r.Ours = append(r.Ours, c.name)
		}
	}
	return r
}

// machine says where this was measured, and how busy it was.
func machine() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	load, _ := os.ReadFile("/proc/loadavg")
	// What follows the two numbers is whose build it is.
	release := strings.SplitN(unix.ByteSliceToString(u.Release[:]), ".", 3)
	return fmt.Sprintf("Linux %s, %d processors, %s, load %s", strings.Join(release[:min(2, len(release))], "."),
		runtime.NumCPU(), runtime.Version(), strings.Join(strings.Fields(string(load))[:1], " "))
}

// add notes a figure of one contestant in one round.
func (r *report) add(f figure, name string, v float64) {
	for _, row := range r.Figures {
		if row.Name == f.name {
			row.Rounds[name] = append(row.Rounds[name], v)
			return
		}
	}
	r.Figures = append(r.Figures, &row{Name: f.name, Unit: f.unit, Rounds: map[string][]float64{name: {v}}})
}

func (r *report) finish() {
	for _, row := range r.Figures {
		row.Spread, row.OverNative, row.OverSocat = map[string]spread{}, map[string]spread{}, map[string]spread{}
		for _, name := range r.Names {
			v := row.Rounds[name]
			row.Spread[name] = spreadOf(v)
			row.OverNative[name] = ratios(v, row.Rounds["native"])
			row.OverSocat[name] = ratios(v, row.Rounds["socat"])
		}
	}
}

// print writes the tables: medians of the rounds, with the lowest and highest.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "%s; median of %d rounds (lowest-highest)\n\n", r.Machine, r.Rounds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "figure\tunit")
	for _, n := range r.Names {
		fmt.Fprintf(t, "\t%s", n)
	}
	for _, n := range r.Ours {
		fmt.Fprintf(t, "\t%s / native\t%s / socat", n, n)
	}
	fmt.Fprintln(t)
	for _, row := range r.Figures {
		fmt.Fprintf(t, "%s\t%s", row.Name, row.Unit)
		for _, n := range r.Names {
			fmt.Fprintf(t, "\t%s", row.text(n))
		}
		for _, n := range r.Ours {
			fmt.Fprintf(t, "\t%s\t%s", row.OverNative[n].ratio(), row.OverSocat[n].ratio())
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush()
	fmt.Fprintln(w)
	for _, n := range r.Ours {
		r.printGoals(w, n)
	}
}

func (r *row) text(name string) string {
	s := r.Spread[name]
	if r.Unit == "ratio" {
		return s.ratio()
	}
	if s.Median < 100 {
		return fmt.Sprintf("%.1f (%.1f-%.1f)", s.Median, s.Min, s.Max)
	}
	return fmt.Sprintf("%.0f (%.0f-%.0f)", s.Median, s.Min, s.Max)
}

func (s spread) ratio() string { return fmt.Sprintf("%.2f (%.2f-%.2f)", s.Median, s.Min, s.Max) }

// A goal compares one ratio with a bound.
type goal struct {
	text  string
	value float64
	bound float64
	low   bool // the value shall be at most the bound, else at least
}

func (r *report) printGoals(w io.Writer, name string) {
	row := func(figure string) *row {
		for _, row := range r.Figures {
			if row.Name == figure {
				return row
			}
		}
		return &rowZero
	}
	over := func(a, b string) float64 {
		if len(row(a).Rounds[name]) == 0 || len(row(b).Rounds[name]) == 0 {
			return 0 // left out
		}
		return ratios(row(a).Rounds[name], row(b).Rounds[name]).Median
	}
	socat := func(f string) float64 { return row(f).OverSocat[name].Median }
	native := func(f string) float64 { return row(f).OverNative[name].Median }
	const connect, trip, beside = "connect + first byte, p50", "round trip, p50", "round trip beside bulk, p99"
	goals := []goal{
		{"must: connect + first byte at most socat's", socat(connect), 1, true},
		{"must: round trip at most 1.5 times socat's", socat(trip), 1.5, true},
		{"must: one stream up at least socat's", socat("one stream up"), 1, false},
		{"must: one stream down at least socat's", socat("one stream down"), 1, false},
		{"goal: connect + first byte at most half socat's", socat(connect), 0.5, true},
		{"goal: round trip at most socat's", socat(trip), 1, true},
		{"goal: round trip beside bulk, p99, at most twice idle's", over(beside, "round trip, p99"), 2, true},
		{"goal: one stream up at least half of native", native("one stream up"), 0.5, false},
		{"goal: one stream down at least half of native", native("one stream down"), 0.5, false},
		{"goal: one stream up at least twice socat's", socat("one stream up"), 2, false},
		{"goal: one stream down at least twice socat's", socat("one stream down"), 2, false},
		{"goal: eight streams up no slower in sum than one", over("eight streams up", "one stream up"), 1, false},
		{"goal: eight streams down no slower in sum than one", over("eight streams down", "one stream down"), 1, false},
		{"goal: a stream that nobody reads costs another at most 5 %", row(unreadCost).Spread[name].Median, 1.05, true},
	}
	for _, g := range goals {
		if g.value == 0 {
			continue // not measured
		}
		met := "met"
		if g.low && g.value > g.bound || !g.low && g.value < g.bound {
			met = "NOT MET"
		}
		fmt.Fprintf(w, "%-8s%s: %-52s %.2f\n", met, name, g.text, g.value)
	}
	fmt.Fprintln(w)
}

var rowZero row

func (r *report) writeJSON(name string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}
