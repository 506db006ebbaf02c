// Tally reads the events of go test -json on standard input, prints what a
// person wants to see of them, and ends with how many tests passed and failed.
//
//	go test -json ./... | go run ./internal/house/tally [-into FILE]
//
// A test with subtests counts itself and each of them. A package that fails
// without a failing test (it did not build, it timed out, it leaked) counts as
// one failure. The exit status is 1 if anything failed or nothing ran. With
// -into, a line "passed failed skipped" is added to FILE for a sum over runs.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// An event is one line of go test -json; see "go doc test2json".
type event struct {
	Action, Package, Test, Output, ImportPath, FailedBuild string
	Elapsed                                                float64
}

// maxOutput bounds what is kept of one test's output, its end being dropped.
const maxOutput = 64 << 10

// A tally is what has been seen so far.
type tally struct {
	passed, failed, skipped int
	out                     io.Writer
	output                  map[string]*strings.Builder // by package, test
	failing                 map[string]int              // failed tests by package
	reasons                 map[string]int              // skipped tests by what they said
}

func main() {
	into := flag.String("into", "", "add a line \"passed failed skipped\" to this `FILE`")
	flag.Parse()
	t := &tally{out: os.Stdout, output: map[string]*strings.Builder{}, failing: map[string]int{}, reasons: map[string]int{}}
	err := t.read(os.Stdin)
	for reason, n := range t.reasons {
		fmt.Printf("skipped %d: %s\n", n, reason)
	}
	if *into != "" && err == nil {
		err = t.add(*into)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tally:", err)
		t.failed++
	}
	fmt.Printf("%d skipped\n%d passed, %d failed\n", t.skipped, t.passed, t.failed)
	if t.failed > 0 || t.passed == 0 {
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
		t.passed++
	case e.Action == "skip":
		t.skipped++
		t.reasons[reason(said)]++
	default:
		t.failed++
		t.failing[e.Package]++
		fmt.Fprint(t.out, said)
	}
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

func (t *tally) add(file string) error {
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
