package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTally(t *testing.T) {
	const events = `
{"Action":"run","Package":"a","Test":"T1"}
{"Action":"output","Package":"a","Test":"T1","Output":"    x_test.go:3: quiet\n"}
{"Action":"pass","Package":"a","Test":"T1"}
{"Action":"output","Package":"a","Test":"T2","Output":"    x_test.go:9: got 1\n"}
{"Action":"fail","Package":"a","Test":"T2"}
{"Action":"output","Package":"a","Test":"T3","Output":"    x_test.go:5: no FUSE: here\n"}
{"Action":"skip","Package":"a","Test":"T3"}
{"Action":"fail","Package":"a","Elapsed":1.5}
{"Action":"build-output","ImportPath":"b","Output":"b.go:1: syntax\n"}
{"Action":"output","Package":"b","Output":"FAIL b [build failed]\n"}
{"Action":"fail","Package":"b","Elapsed":0}
{"Action":"skip","Package":"c","Elapsed":0}
not JSON
`
	var out strings.Builder
	y := newTally(&out)
	if err := y.read(strings.NewReader(strings.TrimPrefix(events, "\n"))); err != nil {
		t.Fatal(err)
	}
	if y.passed != 1 || y.failed != 2 || y.skipped != 1 {
		t.Errorf("passed %d, failed %d, skipped %d, want 1, 2, 1", y.passed, y.failed, y.skipped)
	}
	y.show(false)
	y.show(true)
	want := `fail a 1.5s
b.go:1: syntax
FAIL b [build failed]
fail b 0.0s
not JSON
    x_test.go:9: got 1
first try:     x_test.go:9: got 1
`
	if got := out.String(); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
	if y.reasons["no FUSE: here"] != 1 {
		t.Errorf("reasons = %v, want one of no FUSE: here", y.reasons)
	}
	file := filepath.Join(t.TempDir(), "sum")
	for range 2 {
		if err := y.note(file); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "1 2 1\n1 2 1\n" {
		t.Errorf("sum = %q, %v", got, err)
	}
}

// TestAgain leaves failed tests out of the counts, with their subtests, where they
// are few and all that failed.
func TestAgain(t *testing.T) {
	event := func(action, test string) string {
		return fmt.Sprintf(`{"Action":%q,"Package":"a","Test":%q}`+"\n", action, test)
	}
	one := event("pass", "T1") + event("pass", "T2/x") + event("skip", "T2/y") + event("fail", "T2/z") + event("fail", "T2")
	for _, tt := range []struct {
		name, events, want string
		counts             counts
	}{
		{"nothing", event("pass", "T1"), "", counts{passed: 1}},
		{"one", one, "a T2\n", counts{passed: 1}},
		{"three", one + event("fail", "T4") + event("fail", "T3"), "a T2\na T3\na T4\n", counts{passed: 1}},
		{"four", one + event("fail", "T3") + event("fail", "T4") + event("fail", "T5"), "", counts{passed: 2, failed: 5, skipped: 1}},
		{"a panic", `{"Action":"output","Package":"a","Test":"T2","Output":"panic: x\n"}` + "\n" + one, "", counts{passed: 2, failed: 2, skipped: 1}},
		{"bytes", `{"Action":"output","Package":"a","Test":"T2","Output":"WRONG: at 7\n"}` + "\n" + one, "", counts{passed: 2, failed: 2, skipped: 1}},
		{"a package too", one + `{"Action":"fail","Package":"b"}`, "", counts{passed: 2, failed: 3, skipped: 1}},
	} {
		y := newTally(io.Discard)
		if err := y.read(strings.NewReader(tt.events)); err != nil {
			t.Fatal(err)
		}
		if got := y.again(); got != tt.want || y.counts != tt.counts {
			t.Errorf("%s: %q, %+v, want %q, %+v", tt.name, got, y.counts, tt.want, tt.counts)
		}
	}
}
