// Tally reads the events of go test -json on standard input, prints what a
// person wants to see of them, and ends with how many tests passed and failed.
//
//	go test -json ./... | go run ./internal/house/tally [-into FILE] [-again FILE]
//
// A test with subtests counts itself and each of them. A package that fails
// without a failing test (it did not build, it timed out, it leaked) counts as
// one failure. The exit status is 1 if anything failed or nothing ran. With
// -into, a line "passed failed skipped" is added to FILE for a sum over runs.
//
// With -again, up to three failed tests, if nothing else failed, are left out of
// the counts and become lines "package test" of FILE, for the caller to run once
// more: a machine with other work fails a test now and then. They are shown. Data
// races, panics, which keep other tests from running, and what a test calls WRONG are
// not left out: no machine is so busy that bytes are others than were sent.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// An event is one line of go test -json; see "go doc test2json".
type event struct {
	Action, Package, Test, Output, ImportPath, FailedBuild string
	Elapsed                                                float64
}

// maxOutput bounds what is kept of one test's output, its end being dropped.
const maxOutput = 64 << 10

// most is how many failed tests may be run once more.
const most = 3

// grave are words of failures that are not to be tried again.
var grave = []string{"DATA RACE", "panic: ", "WRONG: "}

type counts struct{ passed, failed, skipped int }

// A tally is what has been seen so far.
type tally struct {
	counts
	out     io.Writer
	output  map[string]*strings.Builder // by package, test
	failing map[string]int              // failed tests by package
	reasons map[string]int              // skipped tests by what they said
	tops    map[top]counts              // of a test and its subtests
	said    strings.Builder             // by failed tests
	grave   bool                        // something failed that is not to be tried again
}

// A top is a test that is no subtest.
type top struct{ pkg, test string }

func newTally(out io.Writer) *tally {
	return &tally{out: out, output: map[string]*strings.Builder{}, failing: map[string]int{}, reasons: map[string]int{}, tops: map[top]counts{}}
}

func main() {
	into := flag.String("into", "", "add a line \"passed failed skipped\" to this `FILE`")
	again := flag.String("again", "", "leave a few failed tests to the caller, by this `FILE`")
	flag.Parse()
	signal.Ignore(syscall.SIGTERM) // what ends a test that takes too long ends go test, and here is what it said
	t := newTally(os.Stdout)
	err := t.read(os.Stdin)
	var retry string
	if *again != "" && err == nil {
		retry = t.again()
		err = os.WriteFile(*again, []byte(retry), 0o644)
	}
	t.show(retry != "")
	for reason, n := range t.reasons {
		fmt.Printf("skipped %d: %s\n", n, reason)
	}
	if *into != "" {
		err = errors.Join(err, t.note(*into))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tally:", err)
		t.failed++
	}
	fmt.Printf("%d skipped\n%d passed, %d failed\n", t.skipped, t.passed, t.failed)
	if t.failed > 0 || t.passed == 0 && retry == "" {
		os.Exit(1)
	}
}

func (t *tally) read(r io.Reader) error {
	in := bufio.NewScanner(r)
	in.Buffer(nil, 4<<20)
	for in.Scan() {
		var e event
		if json.Unmarshal(in.Bytes(), &e) != nil || e.Action == "" {
			fmt.Fprintln(t.out, in.Text()) // the go command's own words
			continue
		}
		t.take(e)
	}
	return in.Err()
}

func (t *tally) take(e event) {
	key := e.Package + "\t" + e.Test
	switch e.Action {
	case "build-output":
		fmt.Fprint(t.out, e.Output)
	case "output":
		b := t.output[key]
		if b == nil {
			b = new(strings.Builder)
			t.output[key] = b
		}
		if b.Len() < maxOutput {
			b.WriteString(e.Output)
		}
	case "pass", "fail", "skip":
		t.end(e, t.output[key])
		delete(t.output, key)
	}
}

func (t *tally) end(e event, b *strings.Builder) {
	said := ""
	if b != nil {
		said = b.String()
	}
	switch {
	case e.Test == "" && e.Action == "fail" && t.failing[e.Package] == 0:
		t.failed++
		fmt.Fprint(t.out, said)
		fallthrough
	case e.Test == "":
		if e.Action != "skip" { // a package without tests
			fmt.Fprintf(t.out, "%s %s %.1fs\n", e.Action, e.Package, e.Elapsed)
		}
	case e.Action == "pass":
		t.count(e, counts{passed: 1})
	case e.Action == "skip":
		t.count(e, counts{skipped: 1})
		t.reasons[reason(said)]++
	default:
		t.count(e, counts{failed: 1})
		t.failing[e.Package]++
		t.said.WriteString(said)
		for _, word := range grave {
			t.grave = t.grave || strings.Contains(said, word)
		}
	}
}

func (t *tally) count(e event, n counts) {
	t.add(n, 1)
	name, _, _ := strings.Cut(e.Test, "/")
	c := t.tops[top{e.Package, name}]
	c.add(n, 1)
	t.tops[top{e.Package, name}] = c
}

func (c *counts) add(n counts, times int) {
	c.passed += times * n.passed
	c.failed += times * n.failed
	c.skipped += times * n.skipped
}

// again takes the failed tests out of the counts and names them, or does nothing
// if they are too many, or something else failed as well.
func (t *tally) again() string {
	var failed []string
	left := t.counts
	for name, n := range t.tops {
		if n.failed > 0 {
			failed = append(failed, name.pkg+" "+name.test+"\n")
			left.add(n, -1)
		}
	}
	if len(failed) > most || left.failed > 0 || t.grave {
		return ""
	}
	t.counts = left
	slices.Sort(failed)
	return strings.Join(failed, "")
}

// reason finds what a skipped test said: the line "    file.go:12: reason".
func reason(said string) string {
	for line := range strings.Lines(said) {
		line = strings.TrimSpace(line)
		if _, after, ok := strings.Cut(line, ".go:"); ok && !strings.HasPrefix(line, "---") {
			if _, why, ok := strings.Cut(after, ": "); ok {
				return why
			}
		}
	}
	return "no reason given"
}

// show prints what failed tests said; first says that they are run once more.
func (t *tally) show(first bool) {
	for line := range strings.Lines(t.said.String()) {
		if first {
			line = "first try: " + line
		}
		fmt.Fprint(t.out, line)
	}
}

// note adds the counts to file.
func (t *tally) note(file string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, t.passed, t.failed, t.skipped)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}
