package errno

import "testing"

// TestErrorIsALine: another system's words stay in their line.
func TestErrorIsALine(t *testing.T) {
	e := &Error{Errno: EIO, Layer: LayerHost, System: 5, Text: "one\r\ntwo\nthree\rfour"}
	if got, want := e.Error(), "host: EIO (system error 5): one two three four"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
