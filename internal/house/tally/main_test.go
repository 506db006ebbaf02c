package main

import (
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
	y := &tally{out: &out, output: map[string]*strings.Builder{}, failing: map[string]int{}, reasons: map[string]int{}}
	if err := y.read(strings.NewReader(strings.TrimPrefix(events, "\n"))); err != nil {
		t.Fatal(err)
	}
	if y.passed != 1 || y.failed != 2 || y.skipped != 1 {
		t.Errorf("passed %d, failed %d, skipped %d, want 1, 2, 1", y.passed, y.failed, y.skipped)
	}
	want := `    x_test.go:9: got 1
fail a 1.5s
b.go:1: syntax
FAIL b [build failed]
fail b 0.0s
not JSON
`
	if got := out.String(); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
	if y.reasons["no FUSE: here"] != 1 {
		t.Errorf("reasons = %v, want one of no FUSE: here", y.reasons)
	}
	file := filepath.Join(t.TempDir(), "sum")
	for range 2 {
		if err := y.add(file); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "1 2 1\n1 2 1\n" {
		t.Errorf("sum = %q, %v", got, err)
	}
}
