package supervise

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestConfigKeepsBytes: what the user's shell passes to a command need not be UTF-8.
func TestConfigKeepsBytes(t *testing.T) {
	const name = "/a\xff\xc3(\u2028\"<\ufffd"
	want := Config{
		Link: Texts{"ssh", name, ""}, Session: &Session{Agent: "a"}, Drives: []DriveView{{Letter: 'C', View: name}},
		Path: name, Argv: Texts{name, "", "x"},
	}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Config
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
