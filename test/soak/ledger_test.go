//go:build linux

package soak

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"drvsock/test/soak/part"
)

// backBound is how long after a kill a route may fail, if no other of its
// processes is killed meanwhile. An agent that is killed within a second of its
// start counts as one that can't live, and several in a row make the daemon wait.
const backBound = 15 * time.Second

// staleAfter is how long a route may bring nothing, however many kills there are.
const staleAfter = 4 * backBound

// slack is what times of different processes may be apart.
const slack = 100 * time.Millisecond

// Victims, and the routes that fail when they are killed. The first five
// are parts of drvsock and its link, the others programs at its ends.
var victims = map[string][]string{
	"agent":        {"up", "down", "fup", "fdown"},
	"daemon":       {"up", "down", "fup", "fdown"},
	"supervisor":   {"up", "down"},
	"front":        {"up", "down"},
	"link":         {"up", "down", "fup", "fdown"},
	"host-server":  {"up", "fup"},
	"run-server":   {"down"},
	"guest-server": {"fdown"},
	"run-client":   {"up"},
	"host-client":  {"down", "fdown"},
	"guest-client": {"fup"},
}

// routes are by drvsock run and by forwards. What a soak with a mount has besides
// are mountRoutes.
var (
	routes      = []string{"up", "down", "fup", "fdown"}
	mountRoutes = []string{"mup", "mdown"}
)

// A kill is one of a victim's processes.
type kill struct {
	victim string
	at     time.Time
}

// span is a connection that came out well.
type span struct{ start, end time.Time }

// A ledger has all that happened in a soak.
type ledger struct {
	routes []string // that it is about

	mu       sync.Mutex
	kills    []kill
	well     map[string][]span // by route
	cut      []part.Report
	served   []part.Report  // by the server in drvsock run, and cut
	stopping bool           // the load stops, which cuts idle connections
	ends     map[string]int // how connections came out, by route or server and outcome
	conns    map[string]int
	bytes    map[string]int64
	never    []part.Report // what must never happen
	alarm    chan struct{}
}

func newLedger() *ledger {
	return &ledger{
		routes: routes,
		well:   map[string][]span{}, ends: map[string]int{}, conns: map[string]int{}, bytes: map[string]int64{},
		alarm: make(chan struct{}),
	}
}

// line takes what a program says; false if it is no report.
func (l *ledger) line(s string) bool {
	var r part.Report
	if !strings.HasPrefix(s, "{") || json.Unmarshal([]byte(s), &r) != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch r.What {
	case "ok":
		l.well[r.Route] = append(l.well[r.Route], span{r.Start, r.End})
		l.conns[r.Route] += r.Conns
		l.bytes[r.Route] += r.Bytes
	case "wrong", "stuck":
		l.never = append(l.never, r)
		if len(l.never) == 1 {
			close(l.alarm)
		}
	default:
		l.ends[r.Route+": "+r.What]++
		switch {
		case slices.Contains(l.routes, r.Route):
			l.cut = append(l.cut, r)
		case r.Route == "run-server" && r.Kind == 0:
			// Lost before the program accepted it, which is when the kernel has no
			// way to reset it, and nothing had come yet.
		case r.Route == "run-server" && !(l.stopping && r.Kind == part.Idle):
			l.served = append(l.served, r)
		}
	}
	return true
}

// killed notes a kill that is about to be.
func (l *ledger) killed(victim string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kills = append(l.kills, kill{victim, time.Now()})
}

// since tells how long ago one of the victims was killed.
func (l *ledger) since(victims ...string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range slices.Backward(l.kills) {
		if slices.Contains(victims, k.victim) {
			return time.Since(k.at)
		}
	}
	return time.Hour
}

// worked tells whether all routes have worked since at.
func (l *ledger) worked(at time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.routes {
		w := l.well[r]
		if len(w) == 0 || w[len(w)-1].start.Before(at) {
			return false
		}
	}
	return true
}

// stale names a route that has brought nothing for long, "" if there is none.
func (l *ledger) stale() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.routes {
		if w := l.well[r]; len(w) > 0 && time.Since(w[len(w)-1].end) > staleAfter {
			return r
		}
	}
	return ""
}

// unexcused lists what failed without a kill that explains it: one on its route
// during its life, or so shortly before that the route may not be back.
func (l *ledger) unexcused() (bad []string) {
	for _, c := range l.cut {
		if !l.explained(c, backBound, func(v string) bool { return slices.Contains(victims[v], c.Route) }) {
			bad = append(bad, fmt.Sprintf("%s: %s, and nobody was killed; %s", c.Route, c.What, l.around(c)))
		}
	}
	// In drvsock run, an end before the last byte is the other program's own: where
	// drvsock breaks off, the program is told so, unless it had ended its own
	// direction. If run's own processes die, so does the program.
	others := map[string]string{"up": "host-server", "run-server": "host-client"}
	for _, c := range slices.Concat(l.cut, l.served) {
		other, inRun := others[c.Route]
		if !inRun || c.What != "short" || c.Half {
			continue
		}
		if !l.explained(c, time.Second, func(v string) bool { return v == other || v == "supervisor" || v == "front" }) &&
			!(c.Route == "run-server" && l.lostEarly(c)) {
			bad = append(bad, fmt.Sprintf("WRONG: %s: an end before the last byte of kind %d, and its peer lived; %s", c.Route, c.Kind, l.around(c)))
		}
	}
	return bad
}

// explained tells whether one of the victims was killed during the life of c, or
// as long before as is given.
func (l *ledger) explained(c part.Report, before time.Duration, who func(victim string) bool) bool {
	return slices.ContainsFunc(l.kills, func(k kill) bool {
		return who(k.victim) && k.at.After(c.Start.Add(-before)) && k.at.Before(c.End.Add(slack))
	})
}

// lostEarly tells whether the link may have been lost before the program accepted the
// connection. There is no end of the program's then by which the kernel could be made
// to reset it: what came is read, and then an end.
func (l *ledger) lostEarly(c part.Report) bool {
	return slices.ContainsFunc(l.kills, func(k kill) bool {
		return slices.Contains([]string{"agent", "daemon", "link"}, k.victim) && k.at.Before(c.Start) && k.at.After(c.Start.Add(-time.Second))
	})
}

// around says when a connection was, and the kills before its end.
func (l *ledger) around(c part.Report) string {
	s := fmt.Sprintf("it was from %s for %v;", c.Start.Format("05.000"), c.End.Sub(c.Start))
	for _, k := range l.kills {
		if d := c.End.Sub(k.at); d > -slack && d < 3*time.Second {
			s += fmt.Sprintf(" %s killed %v before its end", k.victim, d)
		}
	}
	return s
}

// outage is the time from a kill to the route's next connection that came out
// well.
type outage struct {
	kill
	route string
	took  time.Duration
}

// outages lists them for all kills that were followed by no other on the route
// before it was back. One that never came back has the time that is left.
func (l *ledger) outages(end time.Time) (list []outage) {
	for _, r := range l.routes {
		for i, k := range l.kills {
			if !slices.Contains(victims[k.victim], r) {
				continue
			}
			back := end
			for _, w := range l.well[r] {
				if w.start.After(k.at) {
					back = w.end
					break
				}
			}
			if slices.ContainsFunc(l.kills[i+1:], func(o kill) bool {
				return slices.Contains(victims[o.victim], r) && o.at.Before(back)
			}) {
				continue
			}
			list = append(list, outage{k, r, back.Sub(k.at)})
		}
	}
	return list
}

// summary is the ledger in words.
func (l *ledger) summary(list []outage) string {
	var b strings.Builder
	count := map[string]int{}
	for _, k := range l.kills {
		count[k.victim]++
	}
	longest, all := map[string]time.Duration{}, map[string][]time.Duration{}
	for _, o := range list {
		longest[o.victim] = max(longest[o.victim], o.took)
		all[o.victim] = append(all[o.victim], o.took)
	}
	fmt.Fprintf(&b, "%d kills\n", len(l.kills))
	for _, v := range slices.Sorted(maps.Keys(count)) {
		median := time.Duration(0)
		if t := slices.Sorted(slices.Values(all[v])); len(t) > 0 {
			median = t[len(t)/2]
		}
		fmt.Fprintf(&b, "  %-13s %4d  back after %v (median), %v (longest)\n", v, count[v],
			median.Round(time.Millisecond), longest[v].Round(time.Millisecond))
	}
	for _, r := range l.routes {
		fmt.Fprintf(&b, "%-6s %7d connections whole, %6.1f MB\n", r, l.conns[r], float64(l.bytes[r])/1e6)
	}
	for _, e := range slices.Sorted(maps.Keys(l.ends)) {
		fmt.Fprintf(&b, "  %-50s %6d\n", e, l.ends[e])
	}
	return b.String()
}
